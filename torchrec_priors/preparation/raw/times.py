"""Recognises how the times of a column are written, and converts them to milliseconds since 1970.

The forms are dates and times in ISO 8601 (with or without a time zone; without one they are UTC),
numbers in one of four units since 1970, days like 20240131, and formats that a user gives. The form
`order` is for numbers that give only the order of rows.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError

ISO = "iso"
ORDER = "order"

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
# The unit of numbers since 1970: how many of them are a millisecond, as a fraction; in words; and
# the range of numbers that mean the years 1973 to 5138.
_UNITS = {
    "s": (1000, 1, "seconds since 1970", 10**8, 10**11),
    "ms": (1, 1, "milliseconds since 1970", 10**11, 10**14),
    "us": (1, 10**3, "microseconds since 1970", 10**14, 10**17),
    "ns": (1, 10**6, "nanoseconds since 1970", 10**17, 10**20),
}
_DAY = "%Y%m%d"

# Numbers of 64 bits have at most 19 digits.
_INTEGER = r"^-?([0-9]{1,18}|[1-8][0-9]{18})$"
_DECIMAL = r"^-?[0-9]{1,18}\.[0-9]*$"
_EIGHT_DIGITS = r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$"
_DATE = r"[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?"
_ZONE = r"(Z|UTC|GMT|[-+][0-9]{2}(:?[0-9]{2})?)"
_ISO = rf"^{_DATE}([T ]{_CLOCK}( ?{_ZONE})?)?$"
_WITH_ZONE = rf"{_CLOCK} ?{_ZONE}$"


@dataclass(frozen=True)
class TimeForm:
    """How times are written.

    Attributes:
        name: `iso`; the unit `s`, `ms`, `us` or `ns`; `order`; or a format such as "%d.%m.%Y %H:%M"
            in the notation of strptime.
    """

    name: str

    def __post_init__(self) -> None:
        """Raises UserError if the name is none of these."""
        if self.name not in (ISO, ORDER, *_UNITS) and "%" not in self.name:
            raise UserError(
                f"--time-format: '{self.name}' is not a form of times: "
                "give s, ms, us, ns, iso, order, or a format such as '%d.%m.%Y %H:%M'"
            )

    @cached_property
    def words(self) -> str:
        """A description for users."""
        if self.name in _UNITS:
            return _UNITS[self.name][2]
        if self.name == ISO:
            return "dates and times"
        if self.name == ORDER:
            return "numbers that give only the order"
        return f"dates and times like {self.name}"

    @property
    def ratio(self) -> tuple[int, int] | None:
        """For numbers since 1970: the factor and the divisor that make them milliseconds."""
        if self.name not in _UNITS:
            return None
        return _UNITS[self.name][:2]

    def milliseconds(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Converts texts to milliseconds since 1970, int64; null where a text is not such a time.

        Times with a time zone are converted to UTC. What is finer than a millisecond is cut off.
        """
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        texts = pc.utf8_trim(texts, characters=" ")

        if self.name == ISO:
            return _from_iso(texts)
        if self.name == ORDER:
            return _integers(texts)
        if self.ratio is not None:
            return _from_numbers(texts, *self.ratio)
        times = pc.strptime(texts, self.name, unit="ms", error_is_null=True)
        return times.cast(pa.int64())


def recognised(texts: pa.Array) -> TimeForm | None:
    """Returns the form in which most of some times are written; None if it is not known.

    Numbers whose unit would put most of the times before 1973 have no known form: they more likely
    count from another start, or only give the order of rows.

    >>> recognised(pa.array(["2024-01-31 10:00:00 UTC", ""])).name
    'iso'
    >>> recognised(pa.array(["1706695200"])).name, recognised(pa.array(["17", "18"]))
    ('s', None)
    """
    texts = pc.utf8_trim(texts, characters=" ")
    texts = texts.filter(pc.not_equal(texts, ""))
    if 2 * _number_of(texts, _EIGHT_DIGITS) > len(texts):
        return TimeForm(_DAY)
    if 2 * _number_of(texts, _ISO) > len(texts):
        return TimeForm(ISO)

    numbers = are_numbers(texts)
    if not numbers:
        return None
    whole = texts.filter(pc.match_substring_regex(texts, rf"{_INTEGER}|{_DECIMAL}"))
    sizes = pc.abs(whole.cast(pa.float64())).to_numpy()
    for name, (_, _, _, least, beyond) in _UNITS.items():
        if 2 * ((sizes >= least) & (sizes < beyond)).sum() > len(sizes):
            return TimeForm(name)
    return None


def in_words(milliseconds: int) -> str:
    """Returns a time (UTC) as people write it.

    >>> in_words(1_704_276_000_000)
    '3 January 2024 10:00'
    """
    time = _1970 + timedelta(milliseconds=milliseconds)
    return f"{time.day} {time:%B %Y %H:%M}"


def are_numbers(texts: pa.Array) -> bool:
    """Returns whether most texts are numbers."""
    return 2 * _number_of(texts, rf"{_INTEGER}|{_DECIMAL}") > len(texts)


def _number_of(texts: pa.Array, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(texts, pattern), min_count=0).as_py() or 0)


def _integers(texts: pa.Array) -> pa.Array:
    return _where(texts, pc.match_substring_regex(texts, _INTEGER)).cast(pa.int64())


def _from_numbers(texts: pa.Array, factor: int, divisor: int) -> pa.Array:
    """Converts numbers. Their products stay within int64, as `recognised` explains for units."""
    whole = _integers(texts)
    # A number that is too large is not a time. The limit keeps the product within int64.
    whole = _where(whole, pc.less(pc.abs(whole), 2**63 // factor // 2))
    times = pc.divide(pc.multiply(whole, factor), divisor)

    # Numbers like "1706695200.25" or "1706695200.0" come from columns that once had a gap.
    with_point = pc.match_substring_regex(texts, _DECIMAL)
    if not pc.any(with_point, min_count=0).as_py():
        return times
    decimals = _where(texts, with_point).cast(pa.float64())
    scaled = pc.floor(pc.add(pc.multiply(decimals, factor / divisor), 1e-4))
    scaled = _where(scaled, pc.less(pc.abs(scaled), 2.0**62))
    return pc.coalesce(times, scaled.cast(pa.int64()))


def _from_iso(texts: pa.Array) -> pa.Array:
    texts = _where(texts, pc.match_substring_regex(texts, _ISO))
    with_zone = pc.match_substring_regex(texts, _WITH_ZONE)

    # These are the forms that Arrow reads: no blank or name before the zone, and milliseconds.
    texts = pc.replace_substring(texts, "/", "-")
    texts = pc.replace_substring(texts, ",", ".")
    texts = pc.replace_substring_regex(texts, r"(\.[0-9]{3})[0-9]+", r"\1")
    texts = pc.replace_substring_regex(texts, r" ?(UTC|GMT|Z)$", "Z")
    texts = pc.replace_substring_regex(texts, r" ([-+][0-9:]+)$", r"\1")

    plain = _cast(_where(texts, pc.invert(with_zone)), pa.timestamp("ms"))
    zoned = _cast(_where(texts, with_zone), pa.timestamp("ms", "UTC"))
    return pc.coalesce(plain, zoned)


def _cast(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Converts texts to times, and these to int64. Days like 2024-02-30 become null.

    Arrow rejects an array as a whole. It is then halved, until each wrong text is alone.
    """
    try:
        return texts.cast(kind).cast(pa.int64())
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, pa.int64())
    half = len(texts) // 2
    return pa.concat_arrays([_cast(texts[:half], kind), _cast(texts[half:], kind)])


def _where(values: pa.Array, right: pa.Array) -> pa.Array:
    """Returns the values for which `right` is true, and null elsewhere."""
    return pc.if_else(right, values, pa.scalar(None, values.type))
