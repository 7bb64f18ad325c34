"""A prior from a file that says who is in which group."""

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


def from_mapping(name: str, entity: str, file: Path, data: PreparedData) -> Grouping:
    """Groups of a mapping file with columns `entity` and `label`, CSV with a header or Parquet.

    An entity may stand in several rows; those that stand in none are the group "no <name>".

    Args:
        entity: `item_id` or `user_id`.

    Raises:
        UserError: no such file, columns that are missing, a row without an id or a label, no id of the data set.
    """
    rows = _read(file, entity)
    entities = _entities(data, entity)
    known = entities[entity].combine_chunks()
    what = f"{entity.removesuffix('_id')}s"
    place = places(rows[entity].combine_chunks(), id_texts(known, f"{what} of the data set"))
    there = place >= 0
    if not there.any():
        example = rows[entity][0].as_py()
        raise UserError(
            f"{_OPTION}: '{file}' names none of the data set's {what} (its first is {shown(example)})"
        )
    labels = rows["label"].combine_chunks().filter(pa.array(there))
    table = pa.table({entity: known.take(pa.array(place[there])), "label": labels})
    mapped = Labels(name, ibis.memtable(table), remainder=f"no {name}")
    everyone = ibis.memtable(entities)
    with temporary() as engine:
        names, sizes, grouped = labelled.groups(engine, mapped, everyone, entity)
        members = engine.to_arrow(labelled.pairs(grouped, everyone, entity))
    unknown = len(pc.unique(rows[entity].filter(pa.array(~there))))
    covered = len(np.unique(place[there]))
    said = [f"{file}: {len(rows):,} rows, {covered:,} of {len(known):,} {what} in a group"]
    if unknown:
        said.append(f"{file}: {unknown:,} ids are no {what} of the data set and were left out")
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
        said=said,
    )


def _entities(data: PreparedData, entity: str) -> pa.Table:
    if entity == "item_id":
        return data.catalogue(["item_id", "item"])
    return pa.concat_tables(
        [pa.table({"user_id": data.user_ids(group)}) for group in data.row_groups]
    )


def _read(file: Path, entity: str) -> pa.Table:
    """`entity` and `label` as texts."""
    try:
        check_file(file, _OPTION)
        with file.open("rb") as opened:
            is_parquet = opened.read(len(_PARQUET)) == _PARQUET
        columns = {entity: pa.string(), "label": pa.string()}
        rows = _from_parquet(file, entity) if is_parquet else read_csv(file, columns, _BAD_ROWS)
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, f"{_OPTION}: '{file}'")
        raise UserError(
            f"{_OPTION}: '{file}' cannot be read ({str(error).splitlines()[0]})"
        ) from error
    for column in columns:
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(rows[column]), ""), True)
        if pc.any(empty).as_py():
            row = pc.index(empty, True).as_py()
            where = f"line {rows['line'][row]}" if "line" in rows.column_names else f"row {row + 1}"
            raise UserError(f"{file}, {where}: no {column}: leave such rows out")
    if not len(rows):
        raise UserError(f"{_OPTION}: '{file}' holds no rows")
    return rows.select(list(columns))


_BAD_ROWS = BadRows("refuse", remedy="correct it or leave it out")


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
