"""Checks that the result of a corpus file's `load` has the form of a corpus.

The tables, their columns and types, and the names of priors are checked. No data is read. Checks
that need the data are in `torchrec_priors/preparation/build/contents.py`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from torchrec_priors.common.files import check_name as check_file_name
from torchrec_priors.common.plugin import known_files, own_file
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.build.plain_types import is_text, is_time, is_title, is_whole
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.prepared.manifest import PRIOR_KINDS

# The folder with one file for each kind of prior.
_PRIORS = Path(__file__).resolve().parents[2] / "priors"
# The number of digits of the longest decimals that every engine and Parquet can store.
_DIGITS = 38
_NOT_IN_FILE_NAMES = set('/\\:*?"<>|')


def check(loaded: object, file: Path) -> Corpus:
    """Checks that `loaded` is a valid corpus, and returns it.

    Args:
        loaded: the object that `load` of the corpus file returned.
        file: the corpus file, for messages.

    Raises:
        UserError: `loaded` is not a corpus, or a table, a column, a type or the name of a prior is
            wrong.
    """
    if not isinstance(loaded, Corpus):
        kind = "nothing" if loaded is None else f"a {type(loaded).__name__}"
        raise UserError(f"{file.name}: load returned {kind} where a Corpus is expected")

    # The usual mistake is to return Arrow tables or data frames, so the message names the type.
    for table, where in _tables(loaded):
        if not isinstance(table, ir.Table):
            kind = f"{type(table).__module__.split('.')[0]} {type(table).__name__}"
            raise UserError(
                f"{file.name}: {where} is a {kind}, not an Ibis table:"
                " wrap it in ibis.memtable(...)"
            )
    _check_columns(loaded, file.name)
    _check_ids(loaded, file.name)

    names = [
        prior.name for prior in (*loaded.item_priors, *loaded.user_priors, *loaded.computed_priors)
    ]
    if loaded.event_prior:
        names.append(loaded.event_prior)
    for name in names:
        check_name(name, file.name)
    return loaded


def kind_of(column_type: dt.DataType) -> str:
    """Returns the kind of ids in a column of this type: "integer", "text", or another type."""
    if is_whole(column_type):
        return "integer"
    if is_text(column_type):
        return "text"
    return str(column_type)


def check_name(prior: str, name: str) -> None:
    """Checks the name of a prior.

    Args:
        prior: the name of the prior.
        name: the corpus file or the option that gave the name, for messages.

    Raises:
        UserError: the name cannot be the name of a file, or a tree of priors would take it for
            something else: a Python file, or a kind of prior that needs no labels.
    """
    wrong = sorted(
        {
            character
            for character in prior
            if character in _NOT_IN_FILE_NAMES or not character.isprintable()
        }
    )
    if not prior or wrong or prior.startswith("."):
        why = f" (it has {' '.join(map(repr, wrong))})" if wrong else ""
        raise UserError(f"{name}: prior '{prior}' cannot be the name of a file{why}: rename it")
    check_file_name(prior, f"{name}: prior")

    # A level of `priors.tree` is the name of a prior of the data set, of a Python file, or of a
    # kind of prior. The names must therefore differ.
    if own_file(prior) is not None:
        raise UserError(
            f"{name}: prior '{prior}' is named like a file of code, which a tree would load:"
            " rename it"
        )
    kinds = [kind for kind in known_files(_PRIORS) if kind not in PRIOR_KINDS]
    if prior in kinds:
        raise UserError(
            f"{name}: prior '{prior}' is named like a kind of prior ({', '.join(kinds)}): rename it"
        )


def _tables(corpus: Corpus) -> Iterator[tuple[ir.Table, str]]:
    yield corpus.interactions, "interactions"
    yield corpus.items, "items"
    for labels in (*corpus.item_priors, *corpus.user_priors):
        yield labels.table, _name_of_table(labels)


def _name_of_table(labels: Labels) -> str:
    return f"the table of prior '{labels.name}'"


def _check_columns(corpus: Corpus, name: str) -> None:
    """Checks that all columns exist and have valid types."""
    log = corpus.interactions
    columns = ["user_id", "item_id", "timestamp", "order"]
    if corpus.events:
        columns.append("event")

    # This comes first, because the checks of types below look up columns by name.
    for column in columns:
        _require(log, column, "interactions", name)

    is_right: Callable[[dt.DataType], bool]
    if corpus.has_times:
        is_right = _is_moment
        wanted = "milliseconds since 1970 as integers, or a timestamp,"
    else:
        is_right = dt.DataType.is_integer
        wanted = "integers"
    _require_type(log, "timestamp", is_right, wanted, "interactions", name)
    _require_type(log, "order", dt.DataType.is_integer, "integers", "interactions", name)
    if corpus.events:
        _require_type(
            log,
            "event",
            dt.DataType.is_integer,
            "integers (places in `events`)",
            "interactions",
            name,
        )

    for column in ("item_id", "title"):
        _require(corpus.items, column, "items", name)
    _require_type(corpus.items, "title", is_title, "text", "items", name)
    for column in set(corpus.items.columns) - {"item_id", "title"}:
        _require_type(corpus.items, column, _is_kept, "a type that Parquet keeps", "items", name)

    for priors, entity in ((corpus.item_priors, "item_id"), (corpus.user_priors, "user_id")):
        for labels in priors:
            where = _name_of_table(labels)
            _require(labels.table, entity, where, name)
            _require(labels.table, "label", where, name)
            _require_type(labels.table, "label", dt.DataType.is_string, "text", where, name)


def _require(table: ir.Table, column: str, where: str, name: str) -> None:
    if column not in table.columns:
        hint = nearest(column, table.columns).replace("valid:", "it has")
        raise UserError(f"{name}: {where} has no column '{column}': {hint}")


def _require_type(
    table: ir.Table,
    column: str,
    right: Callable[[dt.DataType], bool],
    wanted: str,
    where: str,
    name: str,
) -> None:
    column_type = table.schema()[column]
    if not right(column_type):
        raise UserError(
            f"{name}: column '{column}' of {where} is {column_type} where {wanted} is expected:"
            " cast it"
        )


def _check_ids(corpus: Corpus, name: str) -> None:
    """Checks that ids are integers or text, and of the same kind in all tables.

    In a join, an integer never equals a text, so a mixture would silently lose rows.
    """
    with_items = [
        (corpus.items, "items"),
        *((labels.table, _name_of_table(labels)) for labels in corpus.item_priors),
    ]
    with_users = [(labels.table, _name_of_table(labels)) for labels in corpus.user_priors]

    for column, others in (("item_id", with_items), ("user_id", with_users)):
        _require_type(corpus.interactions, column, _is_id, "integers or text", "interactions", name)
        kind = kind_of(corpus.interactions.schema()[column])
        for table, where in others:
            _require_type(table, column, _is_id, "integers or text", where, name)
            other = kind_of(table.schema()[column])
            if other != kind:
                raise UserError(
                    f"{name}: {column} is {kind} in interactions and {other} in {where}: cast one"
                )


def _is_id(column_type: dt.DataType) -> bool:
    return is_whole(column_type) or is_text(column_type)


def _is_moment(column_type: dt.DataType) -> bool:
    return column_type.is_integer() or is_time(column_type)


def _is_kept(column_type: dt.DataType) -> bool:
    """Returns whether every engine and Parquet can store columns of this type."""
    wide = column_type.is_decimal() and (column_type.precision or 0) > _DIGITS
    return not (wide or column_type.is_interval() or column_type.is_float16())
