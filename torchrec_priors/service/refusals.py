"""Notes which published version was refused and why, and says each reason once."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from torchrec_priors.common.out_of_memory import out_of_memory
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import OutsideError, UserError

log = logging.getLogger(__name__)

_LONGEST = 1000  # characters of a reason


@dataclass(frozen=True)
class Refusal:
    """Why a published version does not answer.

    Attributes:
        version: its name; None if `current.json` cannot be read.
        reason: the reason, on one line.
        at: when it was refused, in seconds since 1970.
    """

    version: str | None
    reason: str
    at: float


class NoRoomError(OutsideError):
    """There is no memory for another version."""


class Refusals:
    """The newest refusal.

    Attributes:
        newest: the newest refusal; None after another version was accepted.
    """

    def __init__(self, on_refusal: Callable[[], None]) -> None:
        """
        Args:
            on_refusal: is called after each refusal that is said.
        """
        self.newest: Refusal | None = None
        self._said: tuple[str | None, str] | None = None
        self._on_refusal = on_refusal

    def add(self, version: str | None, error: Exception, stays: str | None) -> None:
        """Notes and logs a refusal, unless it is the same as the newest one.

        Args:
            version: the version; None if `current.json` cannot be read.
            error: the reason.
            stays: the version that answers; None if none does.
        """
        reason = reason_of(error)
        # The amounts of memory in the reason change.
        said = (version, "room" if isinstance(error, NoRoomError) else reason)
        if said == self._said:
            return
        self._said = said
        self.newest = Refusal(version, reason, time.time())
        self._on_refusal()

        # Errors that are not expected come with a traceback.
        is_expected = isinstance(error, UserError | OutsideError | OSError)
        log.error(
            "%s is refused, and %s: %s",
            "the published version" if version is None else f"version '{version}'",
            "none answers yet" if stays is None else f"'{stays}' stays",
            reason,
            exc_info=None if is_expected else error,
        )

    def forget(self) -> None:
        """Notes that the published version is good."""
        self.newest = None
        self._said = None


def reason_of(error: Exception) -> str:
    """Returns the message of an error on one line."""
    known = cannot("it cannot be read", error) if isinstance(error, OSError) else error
    known = out_of_memory(known) or known
    text = str(known)
    if not isinstance(known, UserError | OutsideError):
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())[:_LONGEST]
