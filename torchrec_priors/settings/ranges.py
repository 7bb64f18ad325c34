"""Declares the ranges of settings in the types of their fields, and checks them.

The type of a field contains its range, as in `Annotated[int, Ge(1), Le(256)]`; the names below are
abbreviations for frequent ranges. When a configuration is read, pydantic checks the ranges. When it
was built in Python, `check_ranges` does. The `check` methods of the sections check everything that
depends on several values.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, TypeGuard, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import AllowInfNan, ConfigDict, TypeAdapter, ValidationError

from torchrec_priors.common.limits import MOST, shortened
from torchrec_priors.errors import UserError

# Every number has an upper limit. A larger number is probably a typo and would need too much
# memory.
Count = Annotated[int, Ge(1), Le(MOST)]
CountOrZero = Annotated[int, Ge(0), Le(MOST)]
Amount = Annotated[float, Ge(0), Le(MOST), AllowInfNan(False)]
PositiveAmount = Annotated[float, Gt(0), Le(MOST), AllowInfNan(False)]
Share = Annotated[float, Ge(0), Le(1), AllowInfNan(False)]
PositiveShare = Annotated[float, Gt(0), Le(1), AllowInfNan(False)]
Probability = Annotated[float, Ge(0), Lt(1), AllowInfNan(False)]

# Pydantic's names of the errors for values out of their range.
_ERRORS = (
    "greater_than_equal",
    "greater_than",
    "less_than_equal",
    "less_than",
    "multiple_of",
    "finite_number",
)
# Large bounds are easier to read as powers of 2.
_POWERS = {1 << power: f"2^{power}" for power in range(31, 64)}


class Section:
    """The base class of all sections.

    Unknown keys are errors, and values are not converted to other types. Objects that were built in
    Python are checked like those that are read from files.
    """

    # Without `revalidate_instances`, pydantic would not check the objects that `check_ranges` gets.
    __pydantic_config__: ClassVar[ConfigDict] = {
        "extra": "forbid",
        "strict": True,
        "revalidate_instances": "always",
    }


@dataclass(frozen=True)
class Range:
    """The range of numbers that a setting may have.

    Attributes:
        low: the lower bound.
        above: whether the lower bound itself is not allowed.
        high: the upper bound. If it is `MOST`, messages and docs do not mention it.
        below: whether the upper bound itself is not allowed.
        multiple: a number; the value must be a multiple of it.
    """

    low: float = 0
    above: bool = False
    high: float = MOST
    below: bool = False
    multiple: int = 1

    @classmethod
    def of(cls, annotated: Any) -> "Range | None":
        """Returns the range of an annotated type; None if the type has no range.

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
        """Returns the requirement that a value out of the range does not meet, for messages.

        >>> Range.of(Count).requirement(0), Range.of(Share).requirement(2)
        ('must be at least 1', 'must be in [0, 1]')
        """
        if self._is_between(value):
            return f"must be a multiple of {self.multiple}"
        if self.high != MOST:
            return f"must be in {self.interval}"

        # If the upper bound is `MOST`, only the bound that the value violates is mentioned.
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
        """Returns whether a value is between the bounds."""
        if value < self.low or value > self.high:
            return False
        return not (self.above and value == self.low) and not (self.below and value == self.high)


def check_ranges(settings: Section, name: str = "") -> None:
    """Checks the ranges of settings that were built in Python.

    Args:
        settings: a section, or a whole configuration.
        name: the name of the section, such as "model"; "" for a whole configuration.

    Raises:
        UserError: a value is out of its range.
    """
    try:
        adapter(type(settings)).validate_python(settings)  # type: ignore[arg-type]
    except ValidationError as error:
        # Wrong types are ignored here: the type checker finds them in Python code.
        problems = [problem for problem in error.errors() if is_of_range(problem)]
        if problems:
            message = explain_range(type(settings), problems[0])
            raise UserError(f"{name}.{message}" if name else message) from error


@functools.cache
def adapter(section: type[Any]) -> TypeAdapter[Any]:
    """Returns pydantic's adapter, which reads and checks a dataclass of settings.

    It is created only once, because this takes as long as reading a thousand configurations.
    """
    return TypeAdapter(section)


def is_of_range(problem: Any) -> bool:
    """Returns whether pydantic's error is about a range and not about a type."""
    return problem["type"] in _ERRORS


def explain_range(section: type[Any], problem: Any) -> str:
    """Returns one line about pydantic's error: the key, the value and the requirement.

    Args:
        section: the dataclass that was read.
        problem: pydantic's description of the error.
    """
    key = shortened(".".join(map(str, problem["loc"])), 200)
    value = shortened(str(problem["input"]))
    allowed = Range.of(_type_at(section, problem["loc"]))
    if problem["type"] == "finite_number" or allowed is None:
        return f"{key} = {value} must be a finite number"
    return f"{key} = {value} {allowed.requirement(problem['input'])}"


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Returns whether the type of a field is a section, which has fields itself."""
    return isinstance(kind, type) and issubclass(kind, Section)


def types_of(section: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yields the name and the annotated type of each field of a section, in order."""
    hints = get_type_hints(section, include_extras=True)
    for field in fields(section):
        yield field.name, hints[field.name]


def _type_at(section: type[Any], location: Sequence[str | int]) -> Any:
    """Returns the annotated type of a value.

    Args:
        section: the dataclass that contains the value.
        location: pydantic's path to the value: names of fields, and keys of dictionaries.
    """
    # For a field, this continues with the field's type. For a key of a dictionary, it continues
    # with the type of the dictionary's values.
    kind: Any = section
    for part in location:
        if is_section(kind):
            kind = dict(types_of(kind))[str(part)]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
    return kind


def _written(bound: float) -> str:
    """Returns the text of a bound, as a power of 2 if that is shorter."""
    return _POWERS.get(int(bound), f"{bound}")
