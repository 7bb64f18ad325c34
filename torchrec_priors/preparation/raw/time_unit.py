"""Whether the times of a log are milliseconds since 1970, as they tell by where they lie: seconds read so are of 1970,
and microseconds of the year 50,000."""

from collections.abc import Mapping
from typing import Any

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.split import moment

# ms, of the years 1 to 9999
_FIRST = -62_135_596_800_000
_LAST = 253_402_300_799_999
_SECONDS = (600_000_000, 4_000_000_000)  # of 1989 to 2096; as ms, some weeks of 1970
_MODERN = 100_000_000_000  # ms, in 1973: a log that reaches further does not begin in those weeks


def unit_numbers(time: ir.IntegerColumn) -> dict[str, ir.Scalar]:
    """What `check_unit` asks of a log."""
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


def check_unit(name: str, found: Mapping[str, Any]) -> None:
    """Raises UserError where times are of no year, or of seconds.

    Args:
        name: of the corpus.
        found: values of `unit_numbers`.
    """
    if found["outside"]:
        raise UserError(
            f"corpus '{name}': {found['outside']:,} interactions have times outside the years 1 to 9999, such as"
            f" {found['example_outside']} ms since 1970: where they are micro- or nanoseconds, or milliseconds that are"
            " read as seconds, divide them, else leave such rows out"
        )
    seconds = found["seconds"] or 0
    if seconds and (2 * seconds > found["times"] or found["last_time"] >= _MODERN):
        first = moment(found["first_second"])
        last = moment(found["last_second"])
        raise UserError(
            f"corpus '{name}': {seconds:,} of {found['times']:,} interactions have times from {first} to {last}, as"
            f" which seconds read that are taken for milliseconds (such as {found['first_second']}): multiply them by"
            " 1000 in the corpus file"
        )
