"""A folder of synthetic raw files.

It is written completely or not at all. A file in it says what it holds, which a later call checks.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchrec_priors.common.amounts import as_text
from torchrec_priors.common.files import remove_leftover, write_whole
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import UserError

MARKER = "generated.json"
LEAST_ROWS = 1_000
_BYTES_A_ROW = 8  # at least, compressed, in any corpus

Report = Callable[[str], None]


def make_folder(
    raw: Path,
    corpus: str,
    version: int,
    rows: int,
    seed: int,
    report: Report,
    write: Callable[[Path], None],
) -> None:
    """Creates the folder `raw` with what `write` writes.

    Does nothing if `raw` already holds just that.

    Args:
        raw: The folder.
        corpus: The corpus whose schema the files have.
        version: Version of the files that a seed gives.
        rows: Interactions.
        seed: Seed of all draws.
        report: Is called with messages about the progress.
        write: Fills an empty folder.

    Raises:
        UserError: There are too few rows, the seed is out of range, or the folder holds something
            else.
    """
    if rows < LEAST_ROWS:
        raise UserError(f"--generate {rows}: a log needs at least {LEAST_ROWS} rows")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be in [0, 2^63), not {seed}")

    raw = raw.absolute()
    _check_room(raw, rows)
    about = {"corpus": corpus, "version": version, "rows": rows, "seed": seed}
    try:
        if _is_made(raw, about):
            report(f"{raw} already holds this log")
            return

        # A killed run leaves only the partial folder.
        partial = raw.with_name(f".{raw.name}.partial")
        remove_leftover(partial)
        try:
            partial.mkdir(parents=True)
            write(partial)
            files = sorted(file for file in partial.rglob("*") if file.is_file())
            sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files}
            write_whole(partial / MARKER, json.dumps({**about, "bytes": sizes}, indent=1) + "\n")

            # `raw` does not exist, or is an empty folder.
            partial.replace(raw)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise cannot(f"--raw: cannot write '{raw}'", error) from error


def _check_room(raw: Path, rows: int) -> None:
    """Raises UserError if the disk cannot hold this number of rows, however short they are."""
    existing = next(folder for folder in (raw, *raw.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    needed = rows * _BYTES_A_ROW
    if needed > free:
        raise UserError(
            f"--generate {rows}: such a log takes {as_text(needed)} or more, "
            f"and '{existing}' has {as_text(free)} left: "
            f"give at most {free // _BYTES_A_ROW}, or another --raw"
        )


def _is_made(raw: Path, about: dict[str, Any]) -> bool:
    """Returns whether the folder holds these files; False if it is empty or does not exist.

    Raises:
        UserError: The folder holds something else, or a file has changed.
    """
    if not raw.exists() or (raw.is_dir() and not any(raw.iterdir())):
        return False

    try:
        marker = json.loads((raw / MARKER).read_text(encoding="utf8"))
        files = marker.pop("bytes")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"--raw: '{raw}' exists and holds no generated log: "
            "choose another folder, or leave out --generate"
        ) from error
    if marker != about:
        made = ", ".join(f"{name} {marker.get(name)}" for name in about)
        raise UserError(
            f"--raw: '{raw}' holds another generated log ({made}): choose another folder"
        )

    # Sizes are enough to notice a file that was cut or replaced.
    for name, size in files.items():
        if not (raw / name).is_file() or (raw / name).stat().st_size != size:
            raise UserError(
                f"--raw: '{raw / name}' is not as it was generated: "
                "remove the folder, or choose another"
            )
    return True
