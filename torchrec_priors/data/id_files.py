"""Lists of original ids in files that other systems write: users to be served, items that may or must not be shown."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from torchrec_priors.errors import UserError

_PARQUET = b"PAR1"


def read_ids(file: Path, column: str, *, option: str) -> pa.Array:
    """The ids of a file as texts, in its order: Parquet with `column`, or text with one id a line.

    A text file is read as CSV of one column, so ids may be quoted; a first line that is the column's name is its
    title, empty lines hold nothing.

    Args:
        option: where the user named the file, for messages.

    Raises:
        UserError: no file, neither form, an id that is missing, no ids at all.
    """
    try:
        with file.open("rb") as opened:
            is_parquet = opened.read(len(_PARQUET)) == _PARQUET
        ids = _from_parquet(file, column, option) if is_parquet else _from_text(file, column)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{option}: there is no file '{file}'") from error
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{option}: '{file}' cannot be read ({reason}): give one id a line, or Parquet with a column '{column}'"
        ) from error
    if not len(ids):
        raise UserError(f"{option}: '{file}' holds no ids")
    return ids


def _from_parquet(file: Path, column: str, option: str) -> pa.Array:
    names = pq.read_schema(file).names
    if column not in names:
        raise UserError(f"{option}: '{file}' has no column '{column}' (it has {', '.join(names)})")
    ids = pq.read_table(file, columns=[column])[column].combine_chunks()
    if ids.null_count:
        row = int(np.argmin(ids.is_valid().to_numpy(zero_copy_only=False)))
        raise UserError(f"{option}: '{file}' has no id in row {row + 1} ({ids.null_count} such rows)")
    return ids.cast(pa.string())


def _from_text(file: Path, column: str) -> pa.Array:
    if file.stat().st_size == 0:
        return pa.array([], pa.string())
    table = csv.read_csv(
        file,
        read_options=csv.ReadOptions(column_names=[column]),
        convert_options=csv.ConvertOptions(column_types={column: pa.string()}, strings_can_be_null=False),
    )
    ids = pc.utf8_trim_whitespace(table[column].combine_chunks())
    ids = ids.filter(pc.not_equal(ids, ""))
    return ids.slice(1) if len(ids) and ids[0].as_py() == column else ids


def first_repeated(ids: pa.Array) -> int | None:
    """Where the first id stands that stood before; None where all differ.

    >>> first_repeated(pa.array(["7", "8", "7", "8"]))
    2
    """
    codes = ids.dictionary_encode().indices.to_numpy()  # numbered as they appear: the i-th new one is i
    repeated = codes != np.arange(len(codes))
    return int(np.argmax(repeated)) if repeated.any() else None


def places(ids: pa.Array, among: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Where each id stands among distinct ones: int64, -1 where it does not.

    The hash table is made of `ids`, so that a short list in a large catalogue is found at the cost of one pass over it.

    >>> places(pa.array(["b", "x", "b"]), pa.array(["a", "b"])).tolist()
    [1, -1, 1]
    """
    distinct = ids.dictionary_encode()
    code = as_numbers(pc.index_in(among, value_set=distinct.dictionary))
    place_of_code = np.full(len(distinct.dictionary), -1, np.int64)
    place_of_code[code[code >= 0]] = np.flatnonzero(code >= 0)
    found: np.ndarray = place_of_code[distinct.indices.to_numpy()]
    return found


def as_numbers(found: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64 from what `index_in` gives, -1 for null."""
    whole = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    numbers: np.ndarray = whole.fill_null(-1).to_numpy().astype(np.int64)
    return numbers
