"""Divides the interactions of users into training, validation and test, by one of two rules.

`LastOfUser` is the paper's rule. A user's last E interactions are for test (E is the horizon), the
E before them are for validation, and the rest are for training. Users with at most 2E interactions
are left out.

`AtTimes` divides the interactions of all users at the same two points in time. Interactions before
the first point are for training, those before the second are for validation, and the rest are for
test. A model therefore never learns from interactions that are later than the ones it is tested on.
The targets of a part are a user's first E interactions in it.

Each rule defines an expression `training_end` on a table of histories: the number of training
interactions of the row's user. `AtTimes` also adds columns with the ends of the training and the
validation part.
"""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import ibis.expr.types as ir
import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.sequences import TRAINING_END, VALIDATION_END

# The key of the points in time in the manifest's settings.
TIMES = "split_times"
# These keys in the manifest's counts are used if the log is split by time. The last one counts the
# interactions in the test part after each user's first E.
PARTS = ("validation_users", "test_users", "untested_interactions")

# An hour in milliseconds.
_HOUR = 3_600_000
# If no times are given: the shares of the log before the validation part and before the test part.
_TRAINED = 0.8
_BEFORE_TEST = 0.9


class Split(Protocol):
    """A rule that divides interactions, with its parameters.

    Attributes:
        least: the minimum number of interactions of a user that the corpus requires.
        columns: the names of the columns that the sequences have because of this rule.
        rule: a description of the rule for the manifest.
        left_out: the name of the count of users who are not kept, for the manifest.
        requirement: the condition for keeping a user, and the remedy if no user fulfils it, for a
            message.
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
        """Returns settings for the manifest, in addition to those of `SplitBy`."""

    def user_columns(self, timestamp: ir.Column, whole: Any) -> dict[str, ir.IntegerColumn]:
        """Returns the columns that histories need in addition to `position` and `n`.

        Args:
            timestamp: the column of times.
            whole: the window that contains all interactions of a user.
        """

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        """Returns the number of training interactions of the row's user."""

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        """Returns whether the row's user has anything to train or to evaluate on."""

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        """Returns further counts for the manifest, as columns that say whether a row is counted."""


@dataclass(frozen=True)
class LastOfUser:
    """Splits off the last interactions of each user.

    Args:
        horizon: the number of interactions that are split off for each of test and validation.
        least: the minimum number of interactions of a user, as in `Split`.
    """

    horizon: int
    least: int = 1
    columns: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        if self.horizon == 1:
            parts = "interaction is for test, the one before it"
        else:
            parts = f"{self.horizon} interactions are for test, the {self.horizon} before them"
        return f"each user's last {parts} for validation, the rest for training"

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
        # A user needs at least one training interaction and two full horizons.
        return histories.n >= max(2 * self.horizon + 1, self.least)

    def parts(self, kept: ir.Table) -> dict[str, ir.BooleanColumn]:
        return {}


@dataclass(frozen=True)
class AtTimes:
    """Splits the interactions of all users at the same times.

    Args:
        horizon: the number of a user's targets in each part.
        validation_from: the time at which the validation part begins, ms since 1970.
        test_from: the time at which the test part begins, ms since 1970.
        least: the minimum number of interactions of a user, as in `Split`.
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
        if self.horizon == 1:
            targets = "interaction in each is a target"
        else:
            targets = f"{self.horizon} interactions in each are targets"
        return f"validation from {validation}, test from {test}; a user's first {targets}"

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
        # The times become positions in the history, so that later code need not search for them.
        ends = {TRAINING_END: self.validation_from, VALIDATION_END: self.test_from}
        return {
            name: (timestamp < end).cast("int64").sum().over(whole).cast("int64")
            for name, end in ends.items()
        }

    def training_end(self, histories: ir.Table) -> ir.IntegerColumn:
        return histories[TRAINING_END]

    def keeps(self, histories: ir.Table) -> ir.BooleanColumn:
        # Training needs a context of at least one interaction, and a target.
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
        by: `user` for `LastOfUser`, or `time` for `AtTimes`.
        validation_from: the ISO time (UTC) at which the validation part begins. If None, it begins
            at the first full hour that has 80 % of the log before it.
        test_from: the ISO time (UTC) at which the test part begins. If None, it begins at the first
            full hour that has 90 % of the log before it.
    """

    by: Literal["user", "time"] = "user"
    validation_from: str | None = None
    test_from: str | None = None

    def __post_init__(self) -> None:
        for option, text in (
            ("--validation-from", self.validation_from),
            ("--test-from", self.test_from),
        ):
            # This only checks the text. The time is read again when it is needed.
            read_moment(option, text)
            if text is not None and self.by == "user":
                raise UserError(f"{option} needs --split time")

    def recorded(self) -> dict[str, Any]:
        """Returns the choice as the manifest's settings record it."""
        if self.by == "user":
            return {}
        return {"split": asdict(self)}

    def resolve(self, engine: Engine, corpus: Corpus, log: ir.Table, horizon: int) -> Split:
        """Returns the rule for this log.

        Raises:
            UserError: a split by time is requested and the corpus has no times, or a part would
                have no interactions.
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
    """Returns a time (UTC) as a text that `--test-from` accepts.

    >>> moment(1_684_108_800_000)
    '2023-05-15T00:00'
    """
    return str(np.datetime_as_string(np.datetime64(milliseconds, "ms"), unit="m"))


def read_moment(option: str, text: str | None) -> int | None:
    """Converts an ISO date or time to ms since 1970. Without a time zone, it is read as UTC.

    >>> read_moment("--test-from", "2023-05-15")
    1684108800000

    Raises:
        UserError: the text is not a date or time.
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
    """Returns whether the user has a validation target and at least one interaction before it."""
    trained: ir.IntegerColumn = histories[TRAINING_END]
    return (trained >= 1) & (histories[VALIDATION_END] > trained)


def _tested(histories: ir.Table) -> ir.BooleanColumn:
    """Returns whether the user has a test target and at least one interaction before it."""
    before: ir.IntegerColumn = histories[VALIDATION_END]
    return (before >= 1) & (histories.n > before)


def _at_times(
    engine: Engine, log: ir.Table, horizon: int, validation_from: int | None, test_from: int | None
) -> AtTimes:
    """Returns the split at the given times. A time that is None is chosen from the log.

    Raises:
        UserError: a part would be empty.
    """
    # Interactions are counted per hour, so that the table fits into memory for any log.
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
        # Both times may fall into the same busy hour. The test part then begins with the next hour
        # in the log.
        test_from = max(wanted, int(later[0])) if len(later) else wanted

    # The log is known only by the hour, so its last hour is assumed to be full.
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
