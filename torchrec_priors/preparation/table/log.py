"""Reads the log from a table: its columns, the form of its times, and facts about it."""

from dataclasses import dataclass

import ibis.expr.types as ir

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw import times
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.times import TimeForm
from torchrec_priors.preparation.table.columns import (
    are_plain_integers,
    id_of,
    text_of,
    time_in_ms,
)
from torchrec_priors.preparation.table.description import Table, local
from torchrec_priors.preparation.table.entities import columns_of_items
from torchrec_priors.preparation.table.files import RawTable, look_at

# Times of a log, in ms: the years 1971 to 2199. An earlier time is a sign of a wrong unit, or of a
# missing time that was written as zero.
FIRST = 31_536_000_000
LAST = 7_258_118_399_999
# More types of events than this mean that the column has something else.
_MOST_EVENTS = 100
_UNITS = (
    "--time-format s, ms, us or ns says in which unit numbers count since 1970,"
    " --time-format order that they give only the order"
)


@dataclass(frozen=True)
class Facts:
    """What one query finds in the log.

    Attributes:
        rows: the number of rows.
        users: whether the ids of users can be integers; None if all are missing.
        items: the same for items.
        early: the number of times before `FIRST`.
        earliest: the first time, in ms.
        first: the first time that is not before `FIRST`; None if there is none.
        last: the last time that is not after `LAST`.
    """

    rows: int
    users: bool | None
    items: bool | None
    early: int | None
    earliest: int | None
    first: int | None
    last: int | None


@dataclass(frozen=True)
class Log:
    """The log as it was read.

    Attributes:
        table: the meaning of its columns.
        files: how it is written.
        form: how times are written; None if their type says it.
        rows: the rows. Columns keep their names, because messages name them; ids, times and events
            have been converted.
    """

    table: Table
    files: RawTable
    form: TimeForm | None
    rows: ir.Table

    @property
    def is_ordered_only(self) -> bool:
        """Whether times are only numbers that give the order."""
        return self.form is not None and self.form.name == times.ORDER

    def facts(self, engine: Engine) -> Facts:
        """Returns facts about the log."""
        time = self.rows[self.table.time]
        usual = time.between(FIRST, LAST)
        found = self.rows.aggregate(
            rows=self.rows.count(),
            users=are_plain_integers(self.rows[self.table.user.log]),
            items=are_plain_integers(self.rows[self.table.item.log]),
            early=(time < FIRST).sum(),
            earliest=time.min(),
            first=time.min(where=usual),
            last=time.max(where=usual),
        )
        return Facts(**engine.to_arrow(found).to_pylist()[0])

    def check_times(self, facts: Facts, bad_rows: BadRows) -> None:
        """Raises UserError if the log begins before 1971, unless few rows do and may be dropped."""
        early = facts.early or 0
        if self.is_ordered_only or not early or facts.earliest is None:
            return
        if bad_rows.policy == "drop" and 2 * early < facts.rows:
            return
        raise UserError(
            f"--time: {self.files.name}: {early:,} of {facts.rows:,} rows have a {self.table.time}"
            f" before 1971, the first is {times.in_words(facts.earliest)}: {_UNITS};"
            " --on-bad-row drop leaves such rows out if they are few"
        )

    def times_in_words(self, facts: Facts) -> str:
        """Returns the form of times, and the first and the last one."""
        if self.form is None:
            name = f"times ({self.files.columns[self.table.time]})"
        else:
            name = self.form.words
        if self.is_ordered_only or facts.first is None or facts.last is None:
            return name
        first = times.in_words(facts.first)
        return f"{name}, from {first} to {times.in_words(facts.last)} (UTC)"

    def events(self, engine: Engine) -> tuple[str, ...]:
        """Returns the types of events, sorted by name; none if the log has no such column."""
        column = self.table.event
        if column is None:
            return ()
        distinct = self.rows.select(event=self.rows[column]).distinct().limit(_MOST_EVENTS + 2)
        found = engine.to_arrow(distinct)["event"].to_pylist()
        names = sorted(name for name in found if name is not None)
        if len(names) > _MOST_EVENTS:
            raise UserError(
                f"--event: column {shown(column)} has more than {_MOST_EVENTS} values, such as"
                f" {shown(names[0])}: give a column of types, such as view or purchase"
            )
        return tuple(names)


def read_log(table: Table, engine: Engine, bad_rows: BadRows) -> Log:
    """Reads the log.

    Raises:
        UserError: a file or a column is missing, or the form of times is not known.
    """
    wanted = {table.user.log: "--user", table.item.log: "--item", table.time: "--time"}
    if table.event is not None:
        wanted[table.event] = "--event"
    if table.items is None:
        wanted |= columns_of_items(table)
    files = look_at(local(table.log), "--table", wanted)
    form = _form_of_times(table, files)

    rows = files.read(engine, bad_rows, {} if form is None else {table.time: form})
    # Times that are text have become milliseconds while they were read.
    as_numbers = None if files.is_text(table.time) else form
    changed = {
        table.user.log: id_of(rows[table.user.log]),
        table.item.log: id_of(rows[table.item.log]),
        table.time: time_in_ms(rows[table.time], as_numbers),
    }
    if table.event is not None:
        changed[table.event] = text_of(rows[table.event])
    return Log(table, files, form, rows.mutate(**changed))


def _form_of_times(table: Table, files: RawTable) -> TimeForm | None:
    """Returns how times are written; None if their type says it."""
    if files.is_time(table.time):
        return None
    if table.time_form is not None:
        return table.time_form

    where = f"--time: column {shown(table.time)} of '{files.files[0]}'"
    sample = files.sample(table.time)
    present = [value for value in sample.to_pylist() if value]
    if not present:
        raise UserError(f"{where} has no values in its first rows: give another column, or fill it")
    form = times.recognised(sample)
    if form is not None:
        return form

    if times.are_numbers(sample):
        raise UserError(
            f"{where} has numbers such as {present[0]}, which are no times after 1970 in a usual"
            f" unit: {_UNITS}"
        )
    raise UserError(
        f"{where} has times such as {shown(present[0])}, whose form is not known:"
        " give it, such as --time-format '%d.%m.%Y %H:%M'"
    )
