"""Checks that the times of a log are milliseconds since 1970.

The range of the times reveals a wrong unit. If seconds are read as milliseconds, all times are in
1970. If microseconds are read as milliseconds, the times are around the year 50,000.
"""

from collections.abc import Mapping
from typing import Any

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.split import moment

# The years 1 to 9999, in ms.
_FIRST = -62_135_596_800_000
_LAST = 253_402_300_799_999
# In seconds, this range covers the years 1989 to 2096. In milliseconds, it covers a few weeks of
# 1970.
_SECONDS = (600_000_000, 4_000_000_000)
# A time in 1973, in ms. A log that continues beyond this time is unlikely to begin in those weeks
# of 1970.
_MODERN = 100_000_000_000


def unit_numbers(time: ir.IntegerColumn) -> dict[str, ir.Scalar]:
    """Returns the aggregates of a log that `check_unit` needs."""
    seconds = time.between(_SECONDS[0], _SECONDS[1] - 1)
    outside = ~time.between(_FIRST, _LAST)
    return {
        "times": time.count(),
        "seconds": seconds.sum(),
        "first_second": time.min(where=seconds),
        "last_second": time.max(where=seconds),
        "last_time": time.max(),
        "outside": outside.sum(),
        "example_outside": time.max(where=outside),
    }


def check_unit(name: str, numbers: Mapping[str, Any]) -> None:
    """Raises UserError if times are outside the years 1 to 9999, or seem to be seconds.

    Args:
        name: the name of the corpus.
        numbers: the computed values of `unit_numbers`.
    """
    if numbers["outside"]:
        raise UserError(
            f"corpus '{name}': {numbers['outside']:,} interactions have times outside the years"
            f" 1 to 9999, such as {numbers['example_outside']} ms since 1970: divide them if they"
            " are micro- or nanoseconds, or milliseconds that are read as seconds; otherwise leave"
            " such rows out"
        )

    # A log that ends in 1970 may have correct times. A log that begins in these weeks of 1970 and
    # continues after 1973 is taken for one in which some times are seconds.
    seconds = numbers["seconds"] or 0
    if seconds and (2 * seconds > numbers["times"] or numbers["last_time"] >= _MODERN):
        first = moment(numbers["first_second"])
        last = moment(numbers["last_second"])
        raise UserError(
            f"corpus '{name}': {seconds:,} of {numbers['times']:,} interactions have times from"
            f" {first} to {last}, as if seconds had been read as milliseconds (such as"
            f" {numbers['first_second']}): multiply them by 1000 in the corpus file"
        )
