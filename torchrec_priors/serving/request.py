"""Requests for recommendations, and their answers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from torchrec_priors.errors import UserError
from torchrec_priors.serving.catalogue import ItemId, ItemList
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.user_context import Skipped, UserContext


@dataclass(frozen=True)
class Request:
    """A request for recommendations to one user.

    Attributes:
        context: the user.
        k: the number of items. Fewer are returned only if fewer may be recommended.
        levers: how heads are used.
        allow: original ids of the only items that may be recommended; None for all items.
        deny: original ids of items that must not be recommended; None for none. A list that many
            requests use is looked up only once if it is given as the result of
            `LoadedRun.item_list`.
        strict: whether the request is rejected if the data set lacks something that it names, or
            if there is no history. Otherwise this is skipped and counted.
        deadline: the value of `time.monotonic()` after which nobody waits for the answer any more;
            None if there is none.
        explain: whether each item comes with a reason and the scores of all heads. Otherwise
            `reason` and `head_scores` are empty, and the answer takes less time.
    """

    context: UserContext
    k: int = 10
    levers: Levers = field(default_factory=Levers)
    allow: Iterable[ItemId] | ItemList | None = None
    deny: Iterable[ItemId] | ItemList | None = None
    strict: bool = False
    deadline: float | None = None
    explain: bool = True


# What answers: the model, or popularity if nothing is known of the user.
Source = Literal["model", "popularity"]


class LateError(UserError):
    """The deadline of a request passed before its answer was computed."""


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: the original id of the item.
        title: the title of the item; empty if it has no title.
        score: the score by which items are ordered.
        head: the name of the prior path that gave the score, such as "short-term / Comedy". If
            `evaluation.fusion` is not `max`, it is the path that contributed most to the score.
        head_scores: the scores of the paths that may retrieve the item for this user, by name.
            Boosts are included. Heads that may not be used in this request are not. It is empty
            if the request has `explain=False`.
        reason: why the item is recommended, in words, such as "because you like Comedy (44 of the
            272 items in your history)". It is empty if the request has `explain=False`.
        head_score: the score that `head` itself gives. It differs from `score` if
            `evaluation.fusion` is not `max`. None if the request has `explain=False`.
    """

    item_id: ItemId
    title: str
    score: float
    head: str
    head_scores: dict[str, float]
    reason: str = ""
    head_score: float | None = None


@dataclass(frozen=True, eq=False)
class Answer(Sequence[Recommendation]):
    """The answer to a request: a sequence of the recommended items, best first.

    It equals an answer with the same attributes, and a list of the same items.

    Attributes:
        items: the items.
        source: "model", or "popularity" if nothing is known of the user: then the paths' own
            popularity decides, and scores are log-probabilities.
        skipped: what the request named and the data set or the model lacks.
        short: the groups of `at_least` that have fewer items than demanded, because not enough of
            them may be recommended.
        score_name: what the scores are, in words, such as "log-probability by the best head".
    """

    items: list[Recommendation]
    source: Source = "model"
    skipped: Skipped = field(default_factory=Skipped)
    short: tuple[str, ...] = ()
    score_name: str = ""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Answer):
            return vars(self) == vars(other)
        return self.items == other

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...

    @overload
    def __getitem__(self, index: slice) -> list[Recommendation]: ...

    def __getitem__(self, index: int | slice) -> Recommendation | list[Recommendation]:
        return self.items[index]
