"""The bodies of responses, for the OpenAPI document.

`answers.py` writes those of recommendations.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """A JSON object of a response."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Shape):
    """Why a request was not answered."""

    code: str = Field(description="A word for programs.")
    message: str = Field(description="One line, which names the cause and the remedy.")
    request_id: str = Field(description="The id of the request, as in X-Request-Id and in the log.")


class ErrorAnswer(Shape):
    """The body of every response that is not a success."""

    error: ErrorBody


class PlainError(Shape):
    """The body of an error in the Open Inference Protocol."""

    error: str


class ModelName(Shape):
    """The model that answered."""

    name: str
    version: str


class Item(Shape):
    """A recommended item."""

    item_id: int | str = Field(description="Original id of the item.")
    title: str = Field(description="Title; empty if the item has none.")
    score: float = Field(description="Score by which the items are ordered.")
    head: str = Field(description="Name of the head that explains the item.")
    reason: str = Field(
        "",
        description="With `explain`: why the item is recommended, in words, such as `because you "
        "like Comedy (91 of the 272 items in your history)`.",
    )
    head_score: float | None = Field(
        None,
        description="With `explain`: the score that `head` itself gives. It differs from `score` "
        "if the scores of heads are averaged or added up.",
    )
    head_scores: dict[str, float] = Field(
        {}, description="With `explain`: the scores of all heads that may retrieve the item."
    )


class Timing(Shape):
    """Where the time went, in milliseconds."""

    queued: float = Field(description="Until the batch of the request began.")
    computed: float = Field(description="In which the batch was computed.")
    total: float = Field(description="Since the first line of the request came.")


class Found(Shape):
    """The recommendations to a user."""

    source: Literal["model", "popularity"] = Field(
        description="`popularity` if nothing is known of the user."
    )
    score_name: str = Field(
        description="What the scores are, such as `log-probability by the best head`."
    )
    items: list[Item]
    skipped: dict[str, int] = Field(
        description="What the request names and the data set or the model lacks: counts."
    )
    short: list[str] = Field(description="Groups with fewer items than `at_least` demands.")
    state: Literal["current", "none", "unavailable"] = Field(
        description="Whether stored events of the user were used; `none` if there are none to use."
    )


class OneAnswer(Found):
    """The answer to one request."""

    model: ModelName
    timing_ms: Timing


class RejectedError(Shape):
    """Why one of several requests was rejected."""

    code: str
    message: str


class Rejected(Shape):
    """One of several requests that was rejected."""

    error: RejectedError


class ManyAnswer(Shape):
    """The answers to several requests, in their order."""

    model: ModelName
    answers: list[Found | Rejected]
    timing_ms: Timing


class Health(Shape):
    """The state of the service."""

    status: Literal["live", "ready"]


class PriorShape(Shape):
    """A level of the prior tree."""

    name: str
    groups: list[str] = Field(description="The groups that have a head.")
    of_users: bool = Field(description="Whether its groups are groups of users.")
    restricts_items: bool = Field(
        description="Whether its groups contain items, so that `at_least` may name them."
    )


class LimitsShape(Shape):
    """What a client may ask."""

    body_bytes: int = Field(description="The most bytes of a body.")
    deadline_ms: int = Field(description="The usual time in which a request is answered.")
    requests: int = Field(description="The most requests in one call.")
    events: int = Field(description="The most events in one call.")


class ModelAnswer(Shape):
    """The model that answers."""

    model: ModelName
    previous: str | None = Field(description="The version that a rollback goes back to.")
    loaded_at: float = Field(description="When it was loaded, in seconds since 1970.")
    checkpoint: str
    data_set: str
    items: int
    users: int
    events: list[str] = Field(description="Event types.")
    heads: list[str]
    priors: list[PriorShape] = Field(description="The levels of the prior tree.")
    limits: LimitsShape
    keeps_events: bool = Field(description="Whether events of users can be posted.")
    following: dict[str, object] | None = Field(
        description="The folder of published models that the service follows."
    )


class EventsAnswer(Shape):
    """What became of posted events."""

    accepted: int = Field(description="Events that are new.")
    duplicates: int = Field(description="Events that were stored before.")
    trimmed: int = Field(description="Oldest events that had to make room.")
    unknown: dict[str, int] = Field(
        description="Stored `items` and `events` that the model does not know yet: counts."
    )


class ForgottenAnswer(Shape):
    """A user who was forgotten."""

    user: str
    forgotten: Literal[True]
    changed: bool = Field(description="Whether there was anything to forget.")


class PastItem(Shape):
    """An interaction of a user."""

    item_id: int | str
    title: str
    time: int | None = Field(description="Milliseconds since 1970.")
    event: str | None
    source: Literal["data_set", "events"]


class UserAnswer(Shape):
    """What is known of a user."""

    user: str
    version: str = Field(description="The version of the model whose data set is shown.")
    in_data_set: bool
    forgotten: bool
    groups: dict[str, list[str]] = Field(description="Groups by the names of their priors.")
    interactions: int = Field(description="Interactions in the data set.")
    events: int = Field(description="Posted events that are stored.")
    state: Literal["current", "none", "unavailable"]
    history: list[PastItem] = Field(description="Oldest first.")
