"""Writes a made-up marketplace as raw files, in chunks of users, so that memory does not grow with the log."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.errors import UserError
from torchrec_priors.files import write_whole
from torchrec_priors.preparation.synthetic.catalogue import Catalogue, items_for
from torchrec_priors.preparation.synthetic.histories import EVENTS, SPENDING, Histories, lengths_of, make_histories

LOG, ITEMS, USERS = "log.parquet", "items.parquet", "users.parquet"
TRUTH = "truth/interests.parquet"  # for checks alone: no corpus reads it
MARKER = "generated.json"
LEAST_ROWS = 1_000
_VERSION = 1  # of what a seed makes
_USERS_AT_ONCE = 4096

Report = Callable[[str], None]


def generate(
    raw: Path, rows: int, seed: int, report: Report = lambda _: None, *, users_at_once: int = _USERS_AT_ONCE
) -> None:
    """Makes `raw` with a log of exactly `rows` interactions; does nothing where it already holds just that.

    Args:
        users_at_once: users in memory at a time; the content does not depend on it.

    Raises:
        UserError: too few rows, a seed out of range, or a folder that holds something else.
    """
    if rows < LEAST_ROWS:
        raise UserError(f"--generate {rows}: a log needs at least {LEAST_ROWS} rows")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be in [0, 2^63), not {seed}")
    raw = raw.absolute()
    about = {"corpus": "marketplace", "version": _VERSION, "rows": rows, "seed": seed}
    try:
        if _already_there(raw, about):
            report(f"{raw} already holds this log")
            return
        partial = raw.with_name(f".{raw.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            (partial / TRUTH).parent.mkdir(parents=True)
            _write(partial, rows, seed, users_at_once, report)
            files = {name: (partial / name).stat().st_size for name in (LOG, ITEMS, USERS, TRUTH)}
            write_whole(partial / MARKER, json.dumps({**about, "bytes": files}, indent=1) + "\n")
            partial.replace(raw)  # `raw` does not exist, or is an empty folder
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--raw: cannot write '{raw}': {error.strerror or error}") from error


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
        made = f"{found.get('rows')} rows, seed {found.get('seed')}, version {found.get('version')}"
        raise UserError(f"--raw: '{raw}' holds another generated log ({made}): choose another folder")
    for name, size in files.items():
        if not (raw / name).is_file() or (raw / name).stat().st_size != size:
            raise UserError(f"--raw: '{raw / name}' is not as it was generated: remove the folder, or choose another")
    return True


def _write(folder: Path, rows: int, seed: int, users_at_once: int, report: Report) -> None:
    catalogue = Catalogue.make(items_for(rows), seed)
    pq.write_table(catalogue.table(), folder / ITEMS, compression="zstd")
    done = 0
    with (
        pq.ParquetWriter(folder / LOG, _LOG_SCHEMA, compression="zstd") as log,
        pq.ParquetWriter(folder / USERS, _USERS_SCHEMA, compression="zstd") as users,
        pq.ParquetWriter(folder / TRUTH, _TRUTH_SCHEMA, compression="zstd") as truth,
    ):
        for numbers, lengths in _chunks(rows, seed, users_at_once):
            made = make_histories(catalogue, seed, numbers, lengths)
            log.write_table(_log_table(made, catalogue, done))
            users.write_table(_users_table(made))
            truth.write_table(_truth_table(made, catalogue))
            done += int(lengths.sum())
            report(f"generating {done:,} of {rows:,} rows")


def _chunks(rows: int, seed: int, users_at_once: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers, lengths) of users whose lengths sum up to `rows`; the last one's history is cut to fit."""
    first, left = 1, rows
    while left > 0:
        numbers = np.arange(first, first + users_at_once)
        lengths = lengths_of(seed, numbers)
        before = np.cumsum(lengths) - lengths
        taken = before < left
        numbers, lengths = numbers[taken], np.minimum(lengths, left - before)[taken]
        yield numbers, lengths
        first, left = first + users_at_once, left - int(lengths.sum())


_NAMES = pa.dictionary(pa.int32(), pa.string())
_LOG_SCHEMA = pa.schema(
    {"row": pa.int64(), "user_id": pa.int64(), "item_id": pa.int64(), "event": _NAMES, "time": pa.int64()}
)
_USERS_SCHEMA = pa.schema({"user_id": pa.int64(), "spending": _NAMES})
_TRUTH_SCHEMA = pa.schema({"user_id": pa.int64(), "category3": _NAMES, "from": pa.int64(), "until": pa.int64()})


def _log_table(made: Histories, catalogue: Catalogue, first_row: int) -> pa.Table:
    columns = {
        "row": np.arange(first_row, first_row + len(made.event)),
        "user_id": np.repeat(made.users, made.lengths),
        "item_id": catalogue.item_id[made.position],
        "event": _named(made.event, EVENTS),
        "time": made.time,
    }
    return pa.table(columns, schema=_LOG_SCHEMA)


def _users_table(made: Histories) -> pa.Table:
    return pa.table({"user_id": made.users, "spending": _named(made.spending, SPENDING)}, schema=_USERS_SCHEMA)


def _truth_table(made: Histories, catalogue: Catalogue) -> pa.Table:
    columns = {
        "user_id": made.interest_user,
        "category3": _named(made.interest_leaf, [leaf.level3 for leaf in catalogue.tree]),
        "from": made.interest_from,
        "until": made.interest_until,
    }
    return pa.table(columns, schema=_TRUTH_SCHEMA)


def _named(codes: np.ndarray, names: tuple[str, ...] | list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, pa.string()))
