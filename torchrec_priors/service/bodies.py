"""The bodies of requests: their fields and limits.

Bodies are read from bytes by pydantic. It is strict: "5" is not a number, and an unknown field is
an error. `read_body` says in one line what is wrong, and what to do about it.
"""

import json
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from torchrec_priors.errors import nearest, shown
from torchrec_priors.service.problem import ProblemError

MOST_REQUESTS = 256
MOST_EVENTS = 1_000

# Null characters are in no id, and databases disagree about them.
_NO_NULL = r"^[^\x00]*$"

# Milliseconds since 1970: from 1973 to 2103. Seconds are smaller, and microseconds are larger.
_FIRST_TIME = 100_000_000_000
_LAST_TIME = 4_200_000_000_000

Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=_NO_NULL)]
Whole = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
Id = Whole | Text
Time = Annotated[int, Field(ge=_FIRST_TIME, le=_LAST_TIME)]
Names = Annotated[list[Text], Field(max_length=1_000, fail_fast=True)]
Count = Annotated[int, Field(ge=1, le=1_000)]
Milliseconds = Annotated[int, Field(ge=1, le=60_000)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class EventBody(Body):
    """An interaction in a history or a session, if its time or its event type is known."""

    item: Id = Field(description="Original id of the item.")
    time: Time | None = Field(None, description="Milliseconds since 1970.")
    event: Text | None = Field(None, description="Event type, as in the data set.")


Entries = Annotated[list[Id | EventBody], Field(max_length=10_000, fail_fast=True)]
Ids = Annotated[list[Id], Field(max_length=100_000, fail_fast=True)]


class LeversBody(Body):
    """How heads are used."""

    only: Names | None = Field(None, description="Only these heads may answer.")
    mute: Names = Field(default_factory=list, description="These heads may not answer.")
    boost: Annotated[dict[Text, Factor], Field(max_length=100)] = Field(
        default_factory=dict, description="Factors for the probabilities of heads."
    )
    at_least: Annotated[dict[Text, Share], Field(max_length=5)] = Field(
        default_factory=dict, description="Shares of the list that groups must have."
    )


class AskedBody(Body):
    """A request for recommendations to one user."""

    user: Id | None = Field(
        None, description="Original id of a user: of the data set, or of events that were posted."
    )
    history: Entries | None = Field(
        None,
        description="The history, oldest first. It replaces all that is known of the user, except "
        "for the user's groups.",
    )
    session: Entries = Field(
        default_factory=list, description="What came after the history, oldest first."
    )
    groups: Annotated[dict[Text, Text | Names], Field(max_length=100)] = Field(
        default_factory=dict, description="For a prior of users, the group or groups of the user."
    )
    levers: LeversBody | None = Field(None, description="How heads are used.")
    k: Count = Field(10, description="Number of items.")
    allow: Ids | None = Field(None, description="The only items that may be recommended.")
    deny: Ids | None = Field(None, description="Items that must not be recommended.")
    strict: bool = Field(
        False, description="Whether unknown things are errors. Otherwise they are skipped."
    )
    explain: bool = Field(
        False, description="Whether items have a reason in words and the scores of all their heads."
    )


class RecommendBody(AskedBody):
    """A request for recommendations to one user, and how long the client waits."""

    timeout_ms: Milliseconds | None = Field(
        None, description="Milliseconds after which nobody waits for the answer."
    )


class ManyBody(Body):
    """Several requests, which are answered together."""

    requests: Annotated[
        list[AskedBody], Field(min_length=1, max_length=MOST_REQUESTS, fail_fast=True)
    ]
    timeout_ms: Milliseconds | None = Field(
        None, description="Milliseconds after which nobody waits for the answers."
    )


class UserEventBody(Body):
    """An event of a user, to be stored."""

    event_id: Text = Field(description="Id of the event. It may be posted again without effect.")
    user: Id
    item: Id
    time: Time = Field(description="Milliseconds since 1970.")
    event: Text | None = Field(None, description="Event type, as in the data set.")


class EventsBody(Body):
    """Events of users, to be stored."""

    events: Annotated[
        list[UserEventBody], Field(min_length=1, max_length=MOST_EVENTS, fail_fast=True)
    ]


if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

B = TypeVar("B", bound=Body)


def read_body(model: type[B], raw: bytes) -> B:
    """Reads a body.

    Raises:
        ProblemError: it is not JSON, or not what the model describes (422).
    """
    try:
        body = model.model_validate_json(raw)
    except ValidationError as error:
        raise ProblemError(422, _described(error, model)) from None
    _check_keys(raw)
    return body


def read_recommend(raw: bytes) -> RecommendBody | ManyBody:
    """Reads the body of a request for recommendations: to one user, or to many.

    Raises:
        ProblemError: it is invalid (422).
    """
    # Only the field `requests` tells the two apart. It is rarely the text of anything else.
    if b'"requests"' in raw:
        try:
            body = ManyBody.model_validate_json(raw)
        except ValidationError as error:
            if _has_field(error, "requests", "missing"):
                return read_body(RecommendBody, raw)
            raise ProblemError(422, _described(error, ManyBody)) from None
        _check_keys(raw)
        return body
    return read_body(RecommendBody, raw)


def _has_field(error: ValidationError, field: str, kind: str) -> bool:
    if error.error_count() > _MOST_ERRORS:
        return False
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return any(one["loc"] == (field,) and one["type"] == kind for one in found)


def _check_keys(raw: bytes) -> None:
    """Raises ProblemError if an object of a valid body has a key twice: which one is meant?"""
    _KEYS.decode(raw.decode())


def _check_pairs(pairs: list[tuple[str, object]]) -> None:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ProblemError(422, f"body: {shown(twice)} is given twice: give it once")


# Making a decoder takes longer than reading a usual body.
_KEYS = json.JSONDecoder(object_pairs_hook=_check_pairs)

# Looking at each error of a hostile body would take too long.
_MOST_ERRORS = 1_000

# Where several types are allowed, pydantic reports an error for each of them. These say only that
# another type was tried.
_OTHER_TYPES = {"int_type", "string_type", "model_type", "list_type"}

# Pydantic names the types that it tried in the place of an error.
_TYPES = {
    "constrained-int",
    "constrained-str",
    "int",
    "str",
    "list[constrained-str]",
    EventBody.__name__,
}


def _described(error: ValidationError, model: type[Body]) -> str:
    """Returns one line about the first error of a body: its field, the cause and the remedy."""
    if error.error_count() > _MOST_ERRORS:
        return f"body: it has {error.error_count():,} errors: compare it with /openapi.json"

    found = _without_other_types(error.errors(include_url=False, include_input=False))
    precise = [one for one in found if one["type"] not in _OTHER_TYPES]
    chosen = (precise or found)[0]

    at = chosen["loc"]
    parts = [str(part) for number, part in enumerate(at) if not number or part not in _TYPES]
    place = shown(".".join(parts))[1:-1] or "body"
    kind = chosen["type"]
    # The types that were tried in this place.
    tried = {one["type"] for one in found if at and one["loc"][:-1] == at[:-1]}
    if not at or at[-1] not in _TYPES:
        tried = {kind}
    if kind == "json_invalid":
        return f"body: {chosen['msg']}: send JSON in UTF-8"
    if kind == "extra_forbidden":
        return f"{place}: there is no such field: {nearest(str(at[-1]), _fields(model, at))}"
    if kind == "missing":
        return f"{place}: it is missing: give it"
    if kind == "string_pattern_mismatch":
        return f"{place}: it has a null character: leave it out"
    if kind in _OTHER_TYPES:
        for kinds, message in _ONE_OF:
            if kinds <= tried:
                return f"{place}: {message}"
    return f"{place}: {_plain(chosen)}{_unit(parts)}"


def described_parameter(error: "ErrorDetails") -> str:
    """Returns one line about an invalid parameter of a path or a query."""
    return f"{error['loc'][-1]}: {_plain(error)}"


def _plain(error: "ErrorDetails") -> str:
    """Returns what is wrong with a value, in the words of this service."""
    kind = error["type"]
    if kind in _LIMITS:
        return _LIMITS[kind].format(**error.get("ctx", {}))
    return str(error["msg"])


def _without_other_types(errors: "list[ErrorDetails]") -> "list[ErrorDetails]":
    """Leaves out that a value has not another type, if errors are inside of the value."""
    inside: set[tuple[int | str, ...]] = set()
    for error in errors:
        at = error["loc"]
        inside.update(at[:end] for end in range(len(at) - 1) if at[end] in _TYPES)
    return [
        error
        for error in errors
        if not (error["loc"] and error["loc"][-1] in _TYPES and error["loc"][:-1] in inside)
    ]


# What may stand in a place, by the types that were tried there.
_ONE_OF = (
    ({"int_type", "string_type", "model_type"}, "it must be an id or an event"),
    ({"int_type", "string_type"}, "an id must be an integer or a text"),
    ({"string_type", "list_type"}, "it must be a text or a list of texts"),
)

_LIMITS = {
    "int_type": "it must be an integer",
    "int_parsing": "it must be an integer",
    "int_parsing_size": "it is too large",
    "int_from_float": "it must be an integer",
    "string_type": "it must be a text",
    "bool_type": "it must be true or false",
    "float_type": "it must be a number",
    "list_type": "it must be a list",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
    "finite_number": "it must be a finite number",
    "too_long": "it has more than {max_length} entries: give fewer",
    "too_short": "it has fewer than {min_length} entries: give more",
    "string_too_long": "it has more than {max_length} characters: give fewer",
    "string_too_short": "it is empty: give a text",
    "greater_than": "it must be greater than {gt}",
    "greater_than_equal": "it must be {ge} or more",
    "less_than_equal": "it must be {le} or less",
}


def _unit(parts: list[str]) -> str:
    """Returns what is added to a message about the field at a place: the unit of times."""
    return ", in milliseconds since 1970" if parts and parts[-1] == "time" else ""


def _fields(model: type[Body], at: tuple[int | str, ...]) -> list[str]:
    """Returns the names of the fields that the object at a place may have."""
    names: dict[str, type[Body]] = {"levers": LeversBody, "requests": AskedBody}
    names |= {"events": UserEventBody, EventBody.__name__: EventBody}
    for part in at[:-1]:
        model = names.get(str(part), model)
    return list(model.model_fields)
