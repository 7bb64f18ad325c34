"""Why a request was not answered: a status and a message, in one form for the whole service."""

import json
import math
from collections.abc import Mapping, Sequence

from torchrec_priors.errors import OutsideError, UserError, nearest, shown
from torchrec_priors.service.batcher import QueueFullError
from torchrec_priors.serving.levers import NoHeadError
from torchrec_priors.serving.request import LateError

# The code of each status, if a problem has no code of its own.
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
    504: "late",
}


class ProblemError(Exception):
    """A request that is not answered.

    Attributes:
        status: the status of the response.
        code: a word for programs.
        message: one line for people, which names the cause and the remedy.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or CODES[status]
        self.message = message
        self.headers = dict(headers or {})

    def body(self, request_id: str, *, plain: bool = False) -> bytes:
        """Returns the body of the response.

        Args:
            request_id: the id of the request.
            plain: whether the error is a text, as in the Open Inference Protocol.
        """
        if plain:
            return json.dumps({"error": self.message}).encode()
        error = {"code": self.code, "message": self.message, "request_id": request_id}
        return json.dumps({"error": error}).encode()


def unavailable(
    message: str, *, retry_after_s: float = 1.0, code: str | None = None
) -> ProblemError:
    """Returns the problem of a service that cannot answer now: 503."""
    headers = {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    return ProblemError(503, message, code=code, headers=headers)


def unknown_parameter(name: str, known: Sequence[str]) -> ProblemError:
    """Returns the problem of a query with a parameter that its path does not have: 422."""
    hint = nearest(name, known) if known else "the path has none: leave it out"
    return ProblemError(422, f"{shown(name)[1:-1]}: there is no such parameter: {hint}")


def problem_of(error: Exception) -> ProblemError | None:
    """Returns the problem that an error of the service's parts is to a client.

    None if the error is unexpected: its message may say what clients must not know.
    """
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, QueueFullError):
        seconds = max(1, math.ceil(error.retry_after_s))
        return ProblemError(429, str(error), headers={"Retry-After": str(seconds)})
    if isinstance(error, LateError):
        return ProblemError(504, str(error))
    if isinstance(error, NoHeadError):
        return ProblemError(422, str(error), code="no_head")
    if isinstance(error, UserError):
        return ProblemError(422, str(error))
    if isinstance(error, OutsideError):
        return unavailable(str(error))
    return None
