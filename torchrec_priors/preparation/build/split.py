"""Two rules that divide a user's interactions into training, validation and test.

`LastOfUser` is the paper's rule: of a user's n interactions the last E are test, the E before
them validation, the rest training. Users with n <= 2E are left out.

`AtTimes` divides the interactions of all users at the same two points in time: before the first
is training, before the second validation, the rest test. So nothing is learned from later
interactions. The targets of a part are its first E interactions.

Either rule is an expression of a table of histories, `training_end`: how many interactions of the
row's user are in the training part. `AtTimes` also has columns for the end of both parts.
"""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import ibis.expr.types as ir
import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.data_set import TRAINING_END, VALIDATION_END

# Key in the manifest's settings.
TIMES = "split_times"
# Keys in the manifest's counts. The last one counts interactions of the test part beyond its
# first E.
PARTS = ("validation_users", "test_users", "untested_interactions")

# ms
_HOUR = 3_600_000
# Shares of the log before validation and before test, if no time is given.
_TRAINED = 0.8
_BEFORE_TEST = 0.9


class Split(Protocol):
    """A rule with its parameters.

    Attributes:
        least: fewest interactions of a user, whatever the rule.
        columns: columns that the sequences have for this rule.
        rule: the rule in words, for the manifest.
        left_out: how users that are not kept are named in the manifest's counts.
        requirement: what a user needs to be kept, and the remedy, for the message that no user
            has it.
    """

    @property
    def least(self) -> int: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def rule(self) -> str: ...

    @property
    def left_out(self) -> str: ...

    @property
    def requirement(self) -> str: ...

    def recorded(self) -> dict[str, Any]:
        """What the manifest's settings keep of the rule, in addition to those of `SplitBy`."""

    def user_columns(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        """Columns that histories need in addition to `position` and `n`.

        Args:
            whole: the window of all interactions of a user.
        """

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        """The number of training interactions of the row's user."""

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        """Whether the row's user has anything to train or to evaluate on."""

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        """Counts that the rule does not imply: name -> whether a row is counted."""


@dataclass(frozen=True)
class LastOfUser:
    """Splits off the last interactions of each user.

    Args:
        horizon: E.
        least: as in `Split`.
    """

    horizon: int
    least: int = 1
    columns: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        return (
            f"per user, in time: last {self.horizon} test, {self.horizon} before validation,"
            " rest training"
        )

    @property
    def left_out(self) -> str:
        return "users of at most twice the horizon"

    @property
    def requirement(self) -> str:
        return f"more than {2 * self.horizon} interactions: choose a smaller --horizon"

    def recorded(self) -> dict[str, Any]:
        return {}

    def user_columns(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        return {}

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        return histories.n - 2 * self.horizon

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        # One training interaction and two full horizons.
        return histories.n >= max(2 * self.horizon + 1, self.least)

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        return {}


@dataclass(frozen=True)
class AtTimes:
    """Splits all users at the same times.

    Args:
        horizon: E.
        validation_from: time of the first validation interaction, ms since 1970.
        test_from: time of the first test interaction, ms since 1970.
        least: as in `Split`.
    """

    horizon: int
    validation_from: int
    test_from: int
    least: int = 1
    columns: tuple[str, ...] = (TRAINING_END, VALIDATION_END)

    @property
    def rule(self) -> str:
        validation = moment(self.validation_from)
        test = moment(self.test_from)
        return (
            f"in time: validation from {validation}, test from {test},"
            f" a user's first {self.horizon} of each"
        )

    @property
    def left_out(self) -> str:
        return "users with nothing to train or evaluate on"

    @property
    def requirement(self) -> str:
        return (
            "two interactions, one of them before the test part:"
            " choose other --validation-from, --test-from"
        )

    def recorded(self) -> dict[str, Any]:
        return {TIMES: [self.validation_from, self.test_from]}

    def user_columns(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        # As positions in the history, so sequences need not be searched for the times.
        ends = {TRAINING_END: self.validation_from, VALIDATION_END: self.test_from}
        return {
            name: (timestamp < end).cast("int64").sum().over(whole).cast("int64")
            for name, end in ends.items()
        }

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        return histories[TRAINING_END]

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        # Training needs a context of one interaction and a target.
        used = (histories[TRAINING_END] >= 2) | _validated(histories) | _tested(histories)
        return used & (histories.n >= self.least)

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        first = kept.position == 0
        untested = kept.position >= kept[VALIDATION_END] + self.horizon
        counted = (first & _validated(kept), first & _tested(kept), untested)
        return dict(zip(PARTS, counted, strict=True))


@dataclass(frozen=True)
class SplitBy:
    """The rule that the user chose.

    Attributes:
        by: `user` or `time`.
        validation_from: ISO time (UTC). By default the first hour before which 80 % of the log are.
        test_from: ISO time (UTC). By default the first hour before which 90 % of the log are.
    """

    by: Literal["user", "time"] = "user"
    validation_from: str | None = None
    test_from: str | None = None

    def __post_init__(self) -> None:
        for option, text in (
            ("--validation-from", self.validation_from),
            ("--test-from", self.test_from),
        ):
            # Only for its error: the time is read again when it is needed.
            read_moment(option, text)
            if text is not None and self.by == "user":
                raise UserError(f"{option} goes with --split time")

    def recorded(self) -> dict[str, Any]:
        """The choice as the manifest's settings keep it."""
        if self.by == "user":
            return {}
        return {"split": asdict(self)}

    def resolve(self, engine: Engine, corpus: Corpus, log: ir.Table, horizon: int) -> Split:
        """The rule for this log.

        Raises:
            UserError: a split in time of a corpus without times, or times that leave a part
                without interactions.
        """
        if self.by == "user":
            return LastOfUser(horizon, corpus.min_history)

        if not corpus.has_times:
            raise UserError(
                f"--split time: corpus '{corpus.name}' has no times, only an order:"
                " use --split user"
            )
        validation = read_moment("--validation-from", self.validation_from)
        test = read_moment("--test-from", self.test_from)
        return replace(_at_times(engine, log, horizon, validation, test), least=corpus.min_history)


def moment(milliseconds: int) -> str:
    """A time (UTC) in the form that `--test-from` reads.

    >>> moment(1_684_108_800_000)
    '2023-05-15T00:00'
    """
    return str(np.datetime_as_string(np.datetime64(milliseconds, "ms"), unit="m"))


def read_moment(option: str, text: str | None) -> int | None:
    """ms since 1970 of an ISO date or time, in UTC if it names no zone.

    >>> read_moment("--test-from", "2023-05-15")
    1684108800000

    Raises:
        UserError: not a date or time.
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{option}: '{text}' is not a date or time such as 2023-05-15 or 2023-05-15T18:00"
        ) from error

    if not time.tzinfo:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)


def _validated(histories: ir.Table) -> ir.BooleanColumn:
    """Whether the user has a validation target and at least one interaction before it."""
    trained: ir.IntegerColumn = histories[TRAINING_END]
    return (trained >= 1) & (histories[VALIDATION_END] > trained)


def _tested(histories: ir.Table) -> ir.BooleanColumn:
    """Whether the user has a test target and at least one interaction before it."""
    before: ir.IntegerColumn = histories[VALIDATION_END]
    return (before >= 1) & (histories.n > before)


def _at_times(
    engine: Engine, log: ir.Table, horizon: int, validation_from: int | None, test_from: int | None
) -> AtTimes:
    """The split at these times; None is replaced by a time chosen by its share of the log.

    Raises:
        UserError: a part would be empty.
    """
    # Counted per hour: a table of this size fits in memory for any log.
    hour = (log.timestamp / _HOUR).floor().cast("int64")
    hours = engine.materialise("hours", log.group_by(hour=hour).aggregate(n=log.count()))
    rows = engine.to_arrow(hours.order_by("hour"))
    if not len(rows):  # `contents.no_user` reports the empty log
        return AtTimes(horizon, validation_from or 0, test_from or 0)

    start = rows["hour"].to_numpy() * _HOUR
    interactions = rows["n"].to_numpy()
    before = (np.cumsum(interactions) - interactions) / interactions.sum()
    if validation_from is None:
        validation_from = int(start[min(np.searchsorted(before, _TRAINED), len(start) - 1)])
    if test_from is None:
        wanted = int(start[min(np.searchsorted(before, _BEFORE_TEST), len(start) - 1)])
        later = start[start > validation_from]
        # A busy hour may hold both shares; then the test part begins with the hour after it.
        test_from = max(wanted, int(later[0])) if len(later) else wanted

    # Times are compared as hours of the log: the last hour is taken as full.
    first = int(start[0])
    last = int(start[-1]) + _HOUR - 1
    if not first < validation_from < test_from <= last:
        raise UserError(
            f"--split time: validation from {moment(validation_from)} and test from"
            f" {moment(test_from)} leave a part empty, as the log goes from {moment(first)} to"
            f" {moment(last)}:"
            " give other --validation-from, --test-from"
        )
    return AtTimes(horizon, validation_from, test_from)
