"""The responses that the OpenAPI document lists."""

from typing import Any

from torchrec_priors.service.shapes import ErrorAnswer, PlainError

_MEANINGS = {
    401: "The token is missing or wrong.",
    403: "The host or the origin may not call.",
    404: "There is no such thing.",
    405: "The path has other methods.",
    408: "The body came too slowly.",
    409: "It contradicts what is already there.",
    413: "The body is too large.",
    422: "The request is invalid. The message names the field and the remedy.",
    429: "Too many requests wait. Retry-After has the seconds to wait.",
    500: "An unexpected error. The log of the service has it.",
    503: "The service cannot answer now. Retry-After has the seconds to wait.",
    504: "The deadline has passed.",
}
_ALWAYS = (401, 403, 405, 500)


def errors(*statuses: int, plain: bool = False) -> dict[int | str, dict[str, Any]]:
    """Returns the descriptions of the errors of a route.

    Args:
        statuses: the statuses that not every route has.
        plain: whether an error is a text, as in the Open Inference Protocol.
    """
    model = PlainError if plain else ErrorAnswer
    return {
        status: {"model": model, "description": _MEANINGS[status]}
        for status in sorted({*_ALWAYS, *statuses})
    }
