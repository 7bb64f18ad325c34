"""Requests whose answers are known: a loaded version must give these answers before it serves.

The publisher answers them with the copy that it publishes, and stores requests and answers with the
version (`canary.json`). Answers of the same kind of machine are equal to the last bit. Other kinds
of CPUs and GPUs round differently, so scores may differ by `TOLERANCE`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.version import REMEDY
from torchrec_priors.serving.catalogue import ItemId
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Answer, Request
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.serving.user_context import Event, UserContext

CANARY = "canary.json"
TOLERANCE = 1e-3  # of a score, relative to scores above 1
_DEFAULT_USERS = 8  # users of the data set that are asked for if no requests are given
_MOST = 1000  # requests
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class CanaryEvent:
    """An interaction, as `Event`."""

    __pydantic_config__ = _STRICT

    item: ItemId
    time: int | None = None
    event: str | None = None


@dataclass(frozen=True)
class CanaryLevers:
    """Levers, as `Levers`."""

    __pydantic_config__ = _STRICT

    only: list[str] | None = None
    mute: list[str] = field(default_factory=list)
    boost: dict[str, float] = field(default_factory=dict)
    at_least: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CanaryRequest:
    """A request; its attributes are those of `UserContext` and `Request`."""

    __pydantic_config__ = _STRICT

    user: ItemId | None = None
    history: list[ItemId | CanaryEvent] | None = None
    session: list[ItemId | CanaryEvent] = field(default_factory=list)
    groups: dict[str, str | list[str]] = field(default_factory=dict)
    k: int = 10
    levers: CanaryLevers = field(default_factory=CanaryLevers)
    allow: list[ItemId] | None = None
    deny: list[ItemId] | None = None
    strict: bool = False

    def request(self) -> Request:
        """Returns the request that a run answers.

        Raises:
            UserError: a lever is invalid.
        """
        history = None if self.history is None else _events(self.history)
        context = UserContext(self.user, history, _events(self.session), self.groups)
        levers = Levers(**asdict(self.levers))
        return Request(context, self.k, levers, self.allow, self.deny, self.strict)


@dataclass(frozen=True)
class CanaryItem:
    """A recommended item of an answer."""

    __pydantic_config__ = _STRICT

    item_id: ItemId
    score: float


@dataclass(frozen=True)
class Canary:
    """Requests and their answers.

    Attributes:
        data_sha256: the checksum of the data set with which they were answered.
        requests: the requests.
        answers: the items of the answer to each request.
    """

    __pydantic_config__ = _STRICT

    data_sha256: str
    requests: list[CanaryRequest]
    answers: list[list[CanaryItem]]


_ONE: TypeAdapter[CanaryRequest] = TypeAdapter(CanaryRequest)
_READER: TypeAdapter[Canary] = TypeAdapter(Canary)


def read_requests(file: Path) -> list[CanaryRequest]:
    """Reads requests from a file with one JSON object a line; empty lines are skipped.

    Raises:
        UserError: a line is no request, or there are none or too many.
    """
    requests = []
    text = file.read_bytes().decode("utf8", "replace")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            requests.append(_ONE.validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"])) or "the line"
            raise UserError(
                f"--canary: '{file}', line {number}: {key}: {problem['msg']}: write one JSON "
                "object with keys such as user, history, k"
            ) from error
    if not 1 <= len(requests) <= _MOST:
        raise UserError(f"--canary: '{file}' has {len(requests):,} requests: give 1 to {_MOST:,}")
    return requests


def default_requests(run: LoadedRun) -> list[CanaryRequest]:
    """Returns requests for some users of the data set, and for one without a history."""
    group = run.data.row_groups[0]
    ids = run.data.user_ids(group).to_pylist()
    step = -(-len(ids) // _DEFAULT_USERS)
    return [*(CanaryRequest(user=user) for user in ids[::step]), CanaryRequest(history=[])]


def ask(run: LoadedRun, requests: Sequence[CanaryRequest]) -> Canary:
    """Answers requests, and returns them with their answers.

    Raises:
        UserError: a request is rejected.
    """
    answers = []
    for number, answer in enumerate(run.answer([one.request() for one in requests]), 1):
        if isinstance(answer, UserError):
            raise UserError(f"request {number} of the canary is rejected: {answer}") from answer
        answers.append(_items(answer))
    return Canary(run.data.manifest.prepared_sha256, list(requests), answers)


def write_canary(folder: Path, canary: Canary) -> None:
    """Writes the canary of a version, completely or not at all."""
    write_json(folder / CANARY, asdict(canary))


def read_canary(folder: Path) -> Canary:
    """Reads the canary of a version.

    Raises:
        UserError: it is missing or damaged.
    """
    values = read_json(folder / CANARY, remedy=REMEDY)
    try:
        return _READER.validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(f"'{folder / CANARY}' is not what publish writes: {REMEDY}") from error


def check_canary(run: LoadedRun, canary: Canary) -> bool:
    """Checks that a loaded version gives the answers of its canary.

    Args:
        run: the loaded version.
        canary: its canary.

    Returns:
        Whether answers were compared. If the data set has grown since the version was published,
        they may differ, and it is only checked that each request is answered.

    Raises:
        UserError: a request is rejected, or its answer differs.
    """
    asked = ask(run, canary.requests)
    if asked.data_sha256 != canary.data_sha256:
        return False
    for number, (found, expected) in enumerate(zip(asked.answers, canary.answers, strict=True), 1):
        difference = _difference(found, expected)
        if difference:
            raise UserError(
                f"the model answers request {number} of its canary differently than when it was "
                f"published ({difference}): publish it again"
            )
    return True


def _difference(found: Sequence[CanaryItem], expected: Sequence[CanaryItem]) -> str | None:
    """Describes how an answer differs by more than rounding; None if it does not."""
    if len(found) != len(expected):
        return f"{len(found)} items instead of {len(expected)}"

    # Items with nearly the same score may change places, and one may replace the last item.
    score_of = {item.item_id: item.score for item in expected}
    for place, (item, other) in enumerate(zip(found, expected, strict=True), 1):
        own = score_of.get(item.item_id, expected[-1].score)
        if not _is_near(item.score, other.score) or not _is_near(item.score, own):
            return (
                f"item {item.item_id} with score {item.score:.6g} in place {place} instead of "
                f"item {other.item_id} with score {other.score:.6g}"
            )
    return None


def _is_near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _items(answer: Answer) -> list[CanaryItem]:
    return [CanaryItem(item.item_id, item.score) for item in answer]


def _events(entries: Sequence[ItemId | CanaryEvent]) -> list[ItemId | Event]:
    return [
        Event(entry.item, entry.time, entry.event) if isinstance(entry, CanaryEvent) else entry
        for entry in entries
    ]
