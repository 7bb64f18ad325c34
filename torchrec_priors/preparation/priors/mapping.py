"""Computes a prior from a file that assigns items or users to groups."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import check_file
from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError, shown
from torchrec_priors.parquet import read_schema, read_table
from torchrec_priors.preparation.build import labelled
from torchrec_priors.preparation.corpus import Labels
from torchrec_priors.preparation.engine.on_duckdb import temporary
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import read_csv
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_files import places
from torchrec_priors.prepared.id_texts import id_texts, plain_array

_OPTION = "--from"
_PARQUET = b"PAR1"
_BAD_ROWS = BadRows("refuse", remedy="correct it or leave it out")


def from_mapping(name: str, entity: str, file: Path, data: PreparedData) -> Grouping:
    """Reads the groups of items or users from a file.

    The file is CSV with a header, or Parquet. It has an id column and the column `label`. An item
    or user may be in several rows. Items or users without a row form the group "no <name>".

    Args:
        name: the name of the prior.
        entity: the name of the id column: `item_id` or `user_id`.
        file: the mapping file.
        data: the data set to which the items or users belong.

    Raises:
        UserError: the file does not exist, lacks a column, has a row without an id or a label, or
            contains no id of the data set.
    """
    rows = _read(file, entity)
    entities = _entities(data, entity)
    known = entities[entity].combine_chunks()
    things = f"{entity.removesuffix('_id')}s"

    # For each row, this is the index of its id in `known`, or -1 if the data set lacks the id.
    index = places(rows[entity].combine_chunks(), id_texts(known, f"{things} of the data set"))
    is_known = index >= 0
    if not is_known.any():
        example = rows[entity][0].as_py()
        raise UserError(
            f"{_OPTION}: '{file}' names none of the data set's {things} "
            f"(its first is {shown(example)})"
        )

    # The ids of the file were read as texts. The table has the ids of the data set instead, which
    # may be integers.
    labels = rows["label"].combine_chunks().filter(pa.array(is_known))
    table = pa.table({entity: known.take(pa.array(index[is_known])), "label": labels})

    # The same code numbers the groups of priors that come with a corpus.
    mapped = Labels(name, ibis.memtable(table), remainder=f"no {name}")
    all_entities = ibis.memtable(entities)
    with temporary() as engine:
        names, sizes, grouped = labelled.groups(engine, mapped, all_entities, entity)
        members = engine.to_arrow(labelled.pairs(grouped, all_entities, entity))

    # Ids that the data set lacks are not an error, because the file may cover a larger catalogue.
    unknown = len(pc.unique(rows[entity].filter(pa.array(~is_known))))
    covered = len(np.unique(index[is_known]))
    messages = [f"{file}: {len(rows):,} rows, {covered:,} of {len(known):,} {things} in a group"]
    if unknown:
        messages.append(
            f"{file}: {unknown:,} ids are not {things} of the data set and were left out"
        )

    return Grouping(
        kind="item" if entity == "item_id" else "user",
        groups=names,
        sizes=sizes,
        table=members,
        made_by={
            "kind": "mapping",
            "file": file.name,
            "sha256": sha256(file),
            "unknown_ids": unknown,
        },
        messages=messages,
    )


def _entities(data: PreparedData, entity: str) -> pa.Table:
    """Returns a table with the ids of all items or users of the data set."""
    if entity == "item_id":
        return data.catalogue(["item_id", "item"])
    return pa.concat_tables(
        [pa.table({"user_id": data.user_ids(group)}) for group in data.row_groups]
    )


def _read(file: Path, entity: str) -> pa.Table:
    """Reads the id column and the column `label` as texts, and checks that no text is empty."""
    columns = [entity, "label"]
    try:
        check_file(file, _OPTION)
        rows = _from_csv_or_parquet(file, entity)
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, f"{_OPTION}: '{file}'")
        raise UserError(
            f"{_OPTION}: '{file}' cannot be read ({str(error).splitlines()[0]})"
        ) from error

    # A missing value is an empty text in CSV, and may be null in Parquet.
    for column in columns:
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(rows[column]), ""), True)
        if pc.any(empty).as_py():
            where = _name_of_row(rows, pc.index(empty, True).as_py())
            raise UserError(f"{file}, {where}: no {column}: leave such rows out")
    if not len(rows):
        raise UserError(f"{_OPTION}: '{file}' holds no rows")

    return rows.select(columns)


def _from_csv_or_parquet(file: Path, entity: str) -> pa.Table:
    if _is_parquet(file):
        return _from_parquet(file, entity)
    return read_csv(file, {entity: pa.string(), "label": pa.string()}, _BAD_ROWS)


def _is_parquet(file: Path) -> bool:
    """Returns whether the file begins like a Parquet file. Its name does not matter."""
    with file.open("rb") as stream:
        return stream.read(len(_PARQUET)) == _PARQUET


def _name_of_row(rows: pa.Table, index: int) -> str:
    """Returns the name of a row for a message: its line in a CSV file, its number in Parquet."""
    if "line" in rows.column_names:
        return f"line {rows['line'][index]}"
    return f"row {index + 1}"


def _from_parquet(file: Path, entity: str) -> pa.Table:
    columns = [entity, "label"]
    names = read_schema(file).names
    for column in columns:
        if column not in names:
            raise UserError(f"{file} has no column {column} (it has {', '.join(names)})")

    table = read_table(file, columns)
    where = f"{_OPTION}: '{file}', column '{entity}'"
    return pa.table(
        {
            entity: id_texts(table[entity], where),
            "label": plain_array(table["label"]).cast(pa.string()),
        }
    )
