"""Ranges of settings: said in the types of the fields, checked in one place.

A field says its range as `Annotated[int, Ge(1), Le(256)]`, or by one of the names below. Pydantic
checks it where a configuration is read; `check_ranges` checks it where one was built in Python. How
values fit together is code, in the `check` methods of the sections.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, TypeGuard, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import AllowInfNan, ConfigDict, TypeAdapter, ValidationError

from torchrec_priors.common.limits import MOST, shortened
from torchrec_priors.errors import UserError

# Every number has an upper limit: a larger one is probably a typo, and would take all memory.
Count = Annotated[int, Ge(1), Le(MOST)]
CountOrZero = Annotated[int, Ge(0), Le(MOST)]
Amount = Annotated[float, Ge(0), Le(MOST), AllowInfNan(False)]
PositiveAmount = Annotated[float, Gt(0), Le(MOST), AllowInfNan(False)]
Share = Annotated[float, Ge(0), Le(1), AllowInfNan(False)]
PositiveShare = Annotated[float, Gt(0), Le(1), AllowInfNan(False)]
Probability = Annotated[float, Ge(0), Lt(1), AllowInfNan(False)]

# Pydantic's names of errors that are about a range.
_ERRORS = (
    "greater_than_equal",
    "greater_than",
    "less_than_equal",
    "less_than",
    "multiple_of",
    "finite_number",
)
# Bounds of 32 and 64 bits are easier to read as powers.
_POWERS = {1 << power: f"2^{power}" for power in range(31, 64)}


class Section:
    """Base of the dataclasses of settings: no other keys, no conversions, and instances are checked
    like files."""

    # `check_ranges` passes instances, which pydantic trusts unless they are to be validated again.
    __pydantic_config__: ClassVar[ConfigDict] = {
        "extra": "forbid",
        "strict": True,
        "revalidate_instances": "always",
    }


@dataclass(frozen=True)
class Range:
    """Which numbers a setting may be.

    Attributes:
        low: smallest value; itself not allowed if `above`.
        high: largest value; itself not allowed if `below`. `MOST` counts as no limit worth
            mentioning.
        multiple: number of which it must be a multiple; 1 for any.
    """

    low: float = 0
    above: bool = False
    high: float = MOST
    below: bool = False
    multiple: int = 1

    @classmethod
    def of(cls, annotated: Any) -> "Range | None":
        """The range of an annotated type; None of a type without one.

        >>> Range.of(Count), Range.of(str)
        (Range(low=1, above=False, high=1000000000000, below=False, multiple=1), None)
        """
        limits: dict[str, Any] = {}
        for limit in get_args(annotated)[1:]:
            if isinstance(limit, Ge):
                limits["low"] = limit.ge
            elif isinstance(limit, Gt):
                limits |= {"low": limit.gt, "above": True}
            elif isinstance(limit, Le):
                limits["high"] = limit.le
            elif isinstance(limit, Lt):
                limits |= {"high": limit.lt, "below": True}
            elif isinstance(limit, MultipleOf):
                limits["multiple"] = limit.multiple_of

        return cls(**limits) if limits else None

    def requirement(self, value: float) -> str:
        """What a value that is out of the range must be.

        >>> Range.of(Count).requirement(0), Range.of(Share).requirement(2)
        ('must be at least 1', 'must be in [0, 1]')
        """
        if self._is_between(value):
            return f"must be a multiple of {self.multiple}"
        if self.high != MOST:
            return f"must be in {self.interval}"

        # Without an upper limit worth mentioning, only the bound that is exceeded is named.
        if value > self.high:
            return f"must be at most {self.high:,}"
        if self.above:
            return "must be positive" if self.low == 0 else f"must be above {self.low}"
        return "must not be negative" if self.low == 0 else f"must be at least {self.low}"

    @property
    def interval(self) -> str:
        """The bounds as an interval.

        >>> Range(0, True, 1).interval, Range(0, high=1 << 31, below=True).interval
        ('(0, 1]', '[0, 2^31)')
        """
        opens = "(" if self.above else "["
        closes = ")" if self.below else "]"
        return f"{opens}{_written(self.low)}, {_written(self.high)}{closes}"

    def __str__(self) -> str:
        """
        >>> str(Range.of(Count)), str(Range.of(PositiveAmount)), str(Range(4, high=64, multiple=4))
        ('≥ 1', '> 0', 'in [4, 64], a multiple of 4')
        """
        text = f"≥ {self.low}"
        if self.above:
            text = f"> {self.low}"
        if self.high != MOST:
            text = f"in {self.interval}"
        if self.multiple != 1:
            text += f", a multiple of {self.multiple}"
        return text

    def _is_between(self, value: float) -> bool:
        """Whether a value is between the bounds."""
        if value < self.low or value > self.high:
            return False
        return not (self.above and value == self.low) and not (self.below and value == self.high)


def check_ranges(settings: Section, name: str = "") -> None:
    """Checks the types and ranges of settings that were built in Python.

    Args:
        name: the section that they are, as "model"; "" for a whole configuration.

    Raises:
        UserError: a value is out of its range.
    """
    try:
        adapter(type(settings)).validate_python(settings)  # type: ignore[arg-type]
    except ValidationError as error:
        # Types are checked where text is read; code has a type checker of its own.
        problems = [problem for problem in error.errors() if is_of_range(problem)]
        if problems:
            message = explain_range(type(settings), problems[0])
            raise UserError(f"{name}.{message}" if name else message) from error


@functools.cache
def adapter(section: type[Any]) -> TypeAdapter[Any]:
    """Reads and checks a dataclass of settings. Built once: that takes as long as reading it a
    thousand times."""
    return TypeAdapter(section)


def is_of_range(problem: Any) -> bool:
    """Whether pydantic's error is about a range, not about a type."""
    return problem["type"] in _ERRORS


def explain_range(section: type[Any], problem: Any) -> str:
    """One line about pydantic's error: the key, the value, and what the value must be.

    Args:
        section: the dataclass that was read.
    """
    key = shortened(".".join(map(str, problem["loc"])), 200)
    value = shortened(str(problem["input"]))
    allowed = Range.of(_type_at(section, problem["loc"]))
    if problem["type"] == "finite_number" or allowed is None:
        return f"{key} = {value} must be a finite number"
    return f"{key} = {value} {allowed.requirement(problem['input'])}"


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Whether the type of a field is a section with fields of its own."""
    return isinstance(kind, type) and issubclass(kind, Section)


def types_of(section: type[Any]) -> Iterator[tuple[str, Any]]:
    """Names and annotated types of a section's fields, in order."""
    hints = get_type_hints(section, include_extras=True)
    for field in fields(section):
        yield field.name, hints[field.name]


def _type_at(section: type[Any], location: Sequence[str | int]) -> Any:
    """The annotated type of a value, which pydantic finds by field names and keys of
    dictionaries."""
    # Fields are followed by name, keys of dictionaries by the type of their values.
    kind: Any = section
    for part in location:
        if is_section(kind):
            kind = dict(types_of(kind))[str(part)]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
    return kind


def _written(bound: float) -> str:
    return _POWERS.get(int(bound), f"{bound}")
