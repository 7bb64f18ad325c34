"""A folder of made-up raw files: made whole or not at all, and found again by what it says it is."""

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
_BYTES_A_ROW = 8  # at the least, of any corpus, compressed

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
    """Makes `raw` with what `write` writes; does nothing where it already holds just that.

    Args:
        corpus: whose schema the files have.
        version: of what a seed makes.
        rows: interactions.
        write: fills a folder that is there and empty.

    Raises:
        UserError: too few rows, a seed out of range, or a folder that holds something else.
    """
    if rows < LEAST_ROWS:
        raise UserError(f"--generate {rows}: a log needs at least {LEAST_ROWS} rows")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be in [0, 2^63), not {seed}")
    raw = raw.absolute()
    _check_room(raw, rows)
    about = {"corpus": corpus, "version": version, "rows": rows, "seed": seed}
    try:
        if _already_there(raw, about):
            report(f"{raw} already holds this log")
            return
        partial = raw.with_name(f".{raw.name}.partial")
        remove_leftover(partial)
        try:
            partial.mkdir(parents=True)
            write(partial)
            files = sorted(file for file in partial.rglob("*") if file.is_file())
            sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files}
            write_whole(partial / MARKER, json.dumps({**about, "bytes": sizes}, indent=1) + "\n")
            partial.replace(raw)  # `raw` does not exist, or is an empty folder
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise cannot(f"--raw: cannot write '{raw}'", error) from error


def _check_room(raw: Path, rows: int) -> None:
    """Raises UserError where the disk cannot hold so many rows, however short they are."""
    there = next(folder for folder in (raw, *raw.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if rows * _BYTES_A_ROW > free:
        raise UserError(
            f"--generate {rows}: such a log takes {as_text(rows * _BYTES_A_ROW)} or more, and '{there}' has "
            f"{as_text(free)} left: give at most {free // _BYTES_A_ROW}, or another --raw"
        )


def _already_there(raw: Path, about: dict[str, Any]) -> bool:
    if not raw.exists() or (raw.is_dir() and not any(raw.iterdir())):
        return False
    try:
        found = json.loads((raw / MARKER).read_text(encoding="utf8"))
        files = found.pop("bytes")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"--raw: '{raw}' exists and holds no generated log: choose another folder, or leave out --generate"
        ) from error
    if found != about:
        made = ", ".join(f"{name} {found.get(name)}" for name in about)
        raise UserError(
            f"--raw: '{raw}' holds another generated log ({made}): choose another folder"
        )
    for name, size in files.items():
        if not (raw / name).is_file() or (raw / name).stat().st_size != size:
            raise UserError(
                f"--raw: '{raw / name}' is not as it was generated: remove the folder, or choose another"
            )
    return True
