"""Words for the mistakes that pydantic finds in a TOML file."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from torchrec_priors.common.limits import shortened
from torchrec_priors.errors import nearest
from torchrec_priors.settings.ranges import is_of_range


def explain(error: ValidationError, what: str, valid: Iterable[str]) -> str:
    """Returns one line about the first mistake in a TOML file.

    Args:
        error: pydantic's error.
        what: the word for a key in the message, such as "configuration key".
        valid: the valid keys.
    """
    key, problem = first_mistake(error)
    key = shortened(key, 200)
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown {what} '{key}': {nearest(key, valid)}"
    if problem["type"] == "missing":
        return f"{what} '{key}' is missing"

    hint = {
        "list_type": f""": write '{key}=["name"]', quoted for the shell""",
        "bool_type": ": write true or false",
    }.get(problem["type"], "")
    return f"{what} '{key}' = {shortened(repr(problem['input']))}: {problem['msg'].lower()}{hint}"


def first_mistake(error: ValidationError) -> tuple[str, Any]:
    """Returns the dotted key of the mistake to report, and pydantic's description of the mistake.

    Unknown keys come first, because they often explain the other mistakes. Wrong types follow, then
    values out of their range.
    """

    def order(problem: Any) -> int:
        if problem["type"] == "unexpected_keyword_argument":
            return 0
        return 2 if is_of_range(problem) else 1

    problem = min(error.errors(), key=order)
    return ".".join(str(part) for part in problem["loc"]), problem
