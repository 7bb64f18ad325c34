"""Which interactions of a user are for training, which for validation, which for test: two rules.

`LastOfUser`, the paper's: of a user's n interactions the last E are test, the E before them validation, the rest
training; users with n <= 2E are left out.

`AtTimes`: what lies before a first point in time is training, what lies before a second one validation, the rest test,
for all users alike, so that nothing is learned from what came later. The targets of a part are its first E
interactions.

Either gives two expressions of a table of histories, `training_end` and `validation_end`: how many interactions of the
row's user come before the end of either part.
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

TIMES = "split_times"  # in the manifest's settings
PARTS = (
    "validation_users",
    "test_users",
    "untested_interactions",
)  # the last: beyond the first E of the test part
_HOUR = 3_600_000  # ms
# shares of the log before validation and before test, where no time is given
_TRAINED = 0.8
_BEFORE_TEST = 0.9


class Split(Protocol):
    """Attributes:
    columns: what the sequences have of it.
    left_out: what is said of users who are not kept.
    asked: what no user of a log has of which none is kept, and the remedy.
    least: fewest interactions of a user, whatever the rule.
    """

    @property
    def least(self) -> int: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def rule(self) -> str:
        """In words, for the manifest."""

    @property
    def left_out(self) -> str: ...

    @property
    def asked(self) -> str: ...

    def recorded(self) -> dict[str, Any]:
        """What the manifest's settings keep of it, beside what was asked for."""

    def of_user(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        """Columns that histories need besides `position` and `n`; `whole` is the window of a user's interactions."""

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn: ...

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        """Whether the row's user has anything to train or to evaluate on."""

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        """What is counted for the manifest, where it does not follow from the rule: rows where each of these holds."""


@dataclass(frozen=True)
class LastOfUser:
    """Args: horizon: E; least: as `Split`."""

    horizon: int
    least: int = 1
    columns: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        return f"per user, in time: last {self.horizon} test, {self.horizon} before validation, rest training"

    @property
    def left_out(self) -> str:
        return "users of at most twice the horizon"

    @property
    def asked(self) -> str:
        return f"more than {2 * self.horizon} interactions: choose a smaller --horizon"

    def recorded(self) -> dict[str, Any]:
        return {}

    def of_user(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        return {}

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        return histories.n - 2 * self.horizon

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        return histories.n >= max(2 * self.horizon + 1, self.least)

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        return {}


@dataclass(frozen=True)
class AtTimes:
    """Args: horizon: E; validation_from, test_from: ms since 1970, the first of each part; least: as `Split`."""

    horizon: int
    validation_from: int
    test_from: int
    least: int = 1
    columns: tuple[str, ...] = (TRAINING_END, VALIDATION_END)

    @property
    def rule(self) -> str:
        start = moment(self.validation_from)
        test = moment(self.test_from)
        return f"in time: validation from {start}, test from {test}, a user's first {self.horizon} of each"

    @property
    def left_out(self) -> str:
        return "users with nothing to train or evaluate on"

    @property
    def asked(self) -> str:
        return "two interactions, one of them before the test part: choose other --validation-from, --test-from"

    def recorded(self) -> dict[str, Any]:
        return {TIMES: [self.validation_from, self.test_from]}

    def of_user(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        ends = {TRAINING_END: self.validation_from, VALIDATION_END: self.test_from}
        return {
            name: (timestamp < end).cast("int64").sum().over(whole).cast("int64")
            for name, end in ends.items()
        }

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        return histories[TRAINING_END]

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        used = (histories[TRAINING_END] >= 2) | _validated(histories) | _tested(histories)
        return used & (histories.n >= self.least)

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        first = kept.position == 0
        untested = kept.position >= kept[VALIDATION_END] + self.horizon
        return dict(
            zip(PARTS, (first & _validated(kept), first & _tested(kept), untested), strict=True)
        )


def _validated(histories: ir.Table) -> ir.BooleanColumn:
    trained: ir.IntegerColumn = histories[TRAINING_END]
    return (trained >= 1) & (histories[VALIDATION_END] > trained)


def _tested(histories: ir.Table) -> ir.BooleanColumn:
    before: ir.IntegerColumn = histories[VALIDATION_END]
    return (before >= 1) & (histories.n > before)


def moment(milliseconds: int) -> str:
    """A time (UTC) as `--test-from` reads it.

    >>> moment(1_684_108_800_000)
    '2023-05-15T00:00'
    """
    return str(np.datetime_as_string(np.datetime64(milliseconds, "ms"), unit="m"))


def read_moment(option: str, text: str | None) -> int | None:
    """ms since 1970 of an ISO date or time, in UTC where it names no zone.

    >>> read_moment("--test-from", "2023-05-15")
    1684108800000

    Raises:
        UserError: no such time.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{option}: '{text}' is no date or time such as 2023-05-15 or 2023-05-15T18:00"
        ) from error
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


@dataclass(frozen=True)
class SplitBy:
    """The rule that is asked for.

    Attributes:
        by: `user` or `time`.
        validation_from, test_from: ISO times (UTC); those not given are the first hours before which lie 80 and 90 %
            of the log.
    """

    by: Literal["user", "time"] = "user"
    validation_from: str | None = None
    test_from: str | None = None

    def __post_init__(self) -> None:
        for option, text in (
            ("--validation-from", self.validation_from),
            ("--test-from", self.test_from),
        ):
            read_moment(option, text)
            if text is not None and self.by == "user":
                raise UserError(f"{option} goes with --split time")

    def recorded(self) -> dict[str, Any]:
        """As the manifest's settings keep it."""
        return {} if self.by == "user" else {"split": asdict(self)}

    def of(self, engine: Engine, corpus: Corpus, log: ir.Table, horizon: int) -> Split:
        """Raises UserError where the corpus has no times, or the times leave a part without interactions."""
        if self.by == "user":
            return LastOfUser(horizon, corpus.min_history)
        if not corpus.has_times:
            raise UserError(
                f"--split time: corpus '{corpus.name}' has no times, only an order: use --split user"
            )
        first = read_moment("--validation-from", self.validation_from)
        test = read_moment("--test-from", self.test_from)
        return replace(_at_times(engine, log, horizon, first, test), least=corpus.min_history)


def _at_times(
    engine: Engine, log: ir.Table, horizon: int, validation_from: int | None, test_from: int | None
) -> AtTimes:
    hour = (log.timestamp / _HOUR).floor().cast("int64")
    hours = engine.materialise("hours", log.group_by(hour=hour).aggregate(n=log.count()))
    found = engine.to_arrow(hours.order_by("hour"))
    if not len(found):
        return AtTimes(
            horizon, validation_from or 0, test_from or 0
        )  # an empty log is refused elsewhere
    start = found["hour"].to_numpy() * _HOUR
    interactions = found["n"].to_numpy()
    before = (np.cumsum(interactions) - interactions) / interactions.sum()
    if validation_from is None:
        validation_from = int(start[min(np.searchsorted(before, _TRAINED), len(start) - 1)])
    if test_from is None:
        later = start[start > validation_from]
        wanted = int(start[min(np.searchsorted(before, _BEFORE_TEST), len(start) - 1)])
        test_from = max(wanted, int(later[0])) if len(later) else wanted
    first = int(start[0])
    last = int(start[-1]) + _HOUR - 1
    if not first < validation_from < test_from <= last:
        raise UserError(
            f"--split time: validation from {moment(validation_from)} and test from {moment(test_from)} leave a part"
            f" empty, as the log goes from {moment(first)} to {moment(last)}: give other --validation-from, --test-from"
        )
    return AtTimes(horizon, validation_from, test_from)
