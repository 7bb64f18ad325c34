"""Whether what a corpus file's `load` returned has the form of a corpus: tables, columns, types and names.

Nothing of the data is read. What only the data tell is checked in `torchrec_priors/preparation/build/contents.py`.
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

_PRIORS = Path(__file__).resolve().parents[2] / "priors"
_DIGITS = 38  # of the largest decimals
_NOT_IN_FILE_NAMES = set('/\\:*?"<>|')


def check(loaded: object, file: Path) -> Corpus:
    """`loaded`, which is a corpus.

    Args:
        file: of the corpus, for messages.

    Raises:
        UserError: it is none, or a table, a column, a type or a prior's name is wrong.
    """
    if not isinstance(loaded, Corpus):
        what = "nothing" if loaded is None else f"a {type(loaded).__name__}"
        raise UserError(f"{file.name}: load returned {what} where a Corpus is expected")
    for table, where in _tables(loaded):
        if not isinstance(table, ir.Table):
            kind = f"{type(table).__module__.split('.')[0]} {type(table).__name__}"
            raise UserError(
                f"{file.name}: {where} is a {kind}, no Ibis table: wrap it in ibis.memtable(...)"
            )
    _check_columns(loaded, file.name)
    _check_ids(loaded, file.name)
    names = [
        prior.name for prior in (*loaded.item_priors, *loaded.user_priors, *loaded.computed_priors)
    ]
    for name in [*names, *([loaded.event_prior] if loaded.event_prior else [])]:
        check_name(name, file.name)
    return loaded


def _tables(corpus: Corpus) -> Iterator[tuple[ir.Table, str]]:
    yield corpus.interactions, "interactions"
    yield corpus.items, "items"
    for labels in (*corpus.item_priors, *corpus.user_priors):
        yield labels.table, _of(labels)


def _of(labels: Labels) -> str:
    return f"the table of prior '{labels.name}'"


def _check_columns(corpus: Corpus, name: str) -> None:
    log = corpus.interactions
    interactions = "interactions"
    for column in (
        "user_id",
        "item_id",
        "timestamp",
        "order",
        *(["event"] if corpus.events else []),
    ):
        _require(log, column, interactions, name)
    milliseconds = (
        "milliseconds since 1970 as integers, or a timestamp," if corpus.has_times else "integers"
    )
    is_right = _is_moment if corpus.has_times else dt.DataType.is_integer
    _require_type(log, "timestamp", is_right, milliseconds, interactions, name)
    _require_type(log, "order", dt.DataType.is_integer, "integers", interactions, name)
    if corpus.events:
        _require_type(
            log,
            "event",
            dt.DataType.is_integer,
            "integers (places in `events`)",
            interactions,
            name,
        )
    for column in ("item_id", "title"):
        _require(corpus.items, column, "items", name)
    _require_type(corpus.items, "title", is_title, "text", "items", name)
    for column in set(corpus.items.columns) - {"item_id", "title"}:
        _require_type(corpus.items, column, _is_kept, "a type that Parquet keeps", "items", name)
    for priors, entity in ((corpus.item_priors, "item_id"), (corpus.user_priors, "user_id")):
        for labels in priors:
            _require(labels.table, entity, _of(labels), name)
            _require(labels.table, "label", _of(labels), name)
            _require_type(labels.table, "label", dt.DataType.is_string, "text", _of(labels), name)


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
    found = table.schema()[column]
    if not right(found):
        raise UserError(
            f"{name}: column '{column}' of {where} is {found} where {wanted} is expected: cast it"
        )


def _check_ids(corpus: Corpus, name: str) -> None:
    """Ids are integers or text, the same everywhere: text in one table and integers in another never meet."""
    for column, others in (
        (
            "item_id",
            [
                (corpus.items, "items"),
                *((labels.table, _of(labels)) for labels in corpus.item_priors),
            ],
        ),
        ("user_id", [(labels.table, _of(labels)) for labels in corpus.user_priors]),
    ):
        _require_type(corpus.interactions, column, _is_id, "integers or text", "interactions", name)
        kind = kind_of(corpus.interactions.schema()[column])
        for table, where in others:
            _require_type(table, column, _is_id, "integers or text", where, name)
            other = kind_of(table.schema()[column])
            if other != kind:
                raise UserError(
                    f"{name}: {column} is {kind} in interactions and {other} in {where}: cast one"
                )


def kind_of(found: dt.DataType) -> str:
    """What ids of a type are taken as."""
    return "integer" if is_whole(found) else "text" if is_text(found) else str(found)


def _is_id(found: dt.DataType) -> bool:
    return is_whole(found) or is_text(found)


def _is_moment(found: dt.DataType) -> bool:
    return found.is_integer() or is_time(found)


def _is_kept(found: dt.DataType) -> bool:
    """Whether every engine and Parquet have such a column."""
    wide = found.is_decimal() and (found.precision or 0) > _DIGITS
    return not (wide or found.is_interval() or found.is_float16())


def check_name(prior: str, name: str) -> None:
    """Raises UserError where a prior's name cannot name a file or is a kind without labels; `name` is who gave it."""
    wrong = sorted(
        {
            character
            for character in prior
            if character in _NOT_IN_FILE_NAMES or not character.isprintable()
        }
    )
    if not prior or wrong or prior.startswith("."):
        why = f" (it has {' '.join(map(repr, wrong))})" if wrong else ""
        raise UserError(
            f"{name}: prior '{prior}' is to name a file, which it cannot{why}: rename it"
        )
    check_file_name(prior, f"{name}: prior")
    if own_file(prior) is not None:
        raise UserError(
            f"{name}: prior '{prior}' is named like a file of code, which a tree would load: rename it"
        )
    kinds = [kind for kind in known_files(_PRIORS) if kind not in PRIOR_KINDS]
    if prior in kinds:
        raise UserError(
            f"{name}: prior '{prior}' is named like a kind of prior ({', '.join(kinds)}): rename it"
        )
