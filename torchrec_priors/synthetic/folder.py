"""Creates folders of synthetic raw files.

A folder is written completely or not at all. A file in it describes its content, so that a later
call can check whether the content is the same.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.common.amounts import as_text
from torchrec_priors.common.files import remove_leftover, write_whole
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import UserError

MARKER = "generated.json"
LEAST_ROWS = 1_000
_BYTES_A_ROW = 8  # the smallest compressed size of a row in any corpus

Report = Callable[[str], None]


def make_folder(
    raw: Path,
    corpus: str,
    version: int,
    rows: int,
    seed: int,
    report: Report,
    write: Callable[[Path], None],
    options: Mapping[str, Any] | None = None,
) -> None:
    """Creates a folder with the files that `write` writes.

    Nothing is written if the folder already contains the same log.

    Args:
        raw: The folder.
        corpus: The name of the corpus that defines the schema of the files.
        version: The version of the generator. Another version gives other files for the same seed.
        rows: The number of interactions.
        seed: The seed of all draws.
        report: Called with messages about the progress.
        write: Writes the files into an empty folder.
        options: What else the content depends on, as it is written into the description.

    Raises:
        UserError: There are too few rows, the seed is out of range, or the folder contains
            something else.
    """
    if rows < LEAST_ROWS:
        raise UserError(f"--generate {rows}: a log needs at least {LEAST_ROWS} rows")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be in [0, 2^63), not {seed}")

    raw = raw.absolute()
    _check_room(raw, rows)
    about = {
        "corpus": corpus,
        "version": version,
        "rows": rows,
        "seed": seed,
        **({"options": dict(options)} if options else {}),
    }
    try:
        if _is_made(raw, about):
            report(f"{raw} already holds this log")
            return

        # If this process is killed, only the partial folder is left.
        partial = raw.with_name(f".{raw.name}.partial")
        remove_leftover(partial)
        try:
            partial.mkdir(parents=True)
            write(partial)
            files = sorted(file for file in partial.rglob("*") if file.is_file())
            sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files}
            write_whole(partial / MARKER, json.dumps({**about, "bytes": sizes}, indent=1) + "\n")

            # At this point, `raw` does not exist or is an empty folder.
            partial.replace(raw)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise cannot(f"--raw: cannot write '{raw}'", error) from error


def _check_room(raw: Path, rows: int) -> None:
    """Raises UserError if the disk has too little space even for the smallest rows."""
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
    """Returns whether the folder contains this log; False if it is empty or does not exist.

    Args:
        raw: The folder.
        about: The description of the log.

    Raises:
        UserError: The folder contains something else, or a file has changed.
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
        # A log without options has no such entry.
        names = dict.fromkeys((*about, *marker))
        made = ", ".join(f"{name} {marker.get(name, 'none')}" for name in names)
        raise UserError(
            f"--raw: '{raw}' holds another generated log ({made}): choose another folder"
        )

    # The sizes show whether a file was cut or replaced.
    for name, size in files.items():
        if not (raw / name).is_file() or (raw / name).stat().st_size != size:
            raise UserError(
                f"--raw: '{raw / name}' is not as it was generated: "
                "remove the folder, or choose another"
            )
    return True
