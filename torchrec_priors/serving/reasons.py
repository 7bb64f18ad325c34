"""Says in words why an item was recommended. All reasons that people read come from here.

A reason follows from the head that gave the score, that is from the groups on its path:

    what the groups are          words, for example
    labels of items              you like Comedy (91 of the 272 items in your history)
    communities of items         you like the community "Drama, War" of items that the same people
                                 choose (12 of the 272 items in your history)
    groups of users              it suits users of the group “F” (gender) like you
    segments of the horizon      expected within the next 5 to 8 items
    events                       the event "purchase" is expected
    one head, or only segments   it fits your history (Comedy, like 91 of its 272 items)
    the repeat head              you have had it before, 3 times
    no history: popularity       it is popular in Comedy with users of the group “F” (gender)

If the head says nothing about the item, the reason names the label of the item that is most
frequent in the history (`item_labels.py`). This is a fact of the data, and not why the head chose
the item, so "you like" is not said.

A reason claims only what the data or the model says. "You like" is said only of items that the
history has: from `LIKED` of them on. The groups of a control have no meaning, and the reason says
so.

Shapes: K paths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from torchrec_priors.priors.prior import kind_of
from torchrec_priors.serving.request import Source

_KEPT = 10_000  # sentences: 2 MB
LIKED = 3  # items of a group in the history, from which on "you like" is said

# The part of a sentence that a level contributes to, by its kind; "other" for all other kinds.
_ROLES = {
    "item": "items",
    "graph": "items",
    "user": "users",
    "event": "events",
    "temporal": "times",
    "interests": "interests",
    "random": "controls",
    "all": "controls",
}

# The first words of names of groups for items or users without a label.
_RESTS = ("no", "unknown", "other", "others")

# What a group is called if its prior has no words of its own.
_USUAL_WORDS = {
    "item": "{}",
    "graph": "the community “{}” of items that the same people choose",
    "event": "the event “{}”",
}


@dataclass(frozen=True)
class LevelWords:
    """What reasons need of a level of the tree.

    Attributes:
        name: the name of the prior.
        kind: what its groups are (`kind_of`).
        groups: the names of its groups.
        words: what a group is called, with `{}` in the place of its name; empty for the usual
            words.
        length: of a temporal prior, the number of offsets in a segment.
        restricts_items: whether its groups restrict items.
    """

    name: str
    kind: str
    groups: Sequence[str]
    words: str = ""
    length: int = 0
    restricts_items: bool = False

    @classmethod
    def of(cls, level: object) -> "LevelWords":
        """Reads them from a prior, or from a level of an export."""
        return cls(
            name=level.name,  # type: ignore[attr-defined]
            kind=kind_of(level),
            groups=list(level.groups),  # type: ignore[attr-defined]
            words=getattr(level, "words", ""),
            length=getattr(level, "length", 0),
            restricts_items=level.restricts_items,  # type: ignore[attr-defined]
        )

    def is_rest(self, group: int) -> bool:
        """Returns whether a group holds what has no label; its name is like "no genre"."""
        first = self.groups[group].partition(" ")[0]
        return first in _RESTS and self.kind in ("item", "user")

    def noun(self, group: int) -> str:
        """Returns what a group is called."""
        name = self.groups[group]
        of_users = f"users of the group “{{}}” ({self.name})"
        words = self.words or _USUAL_WORDS.get(self.kind, of_users)
        # The name of a rest is no part of a sentence.
        if self.is_rest(group):
            words = of_users if self.kind == "user" else f"items of the group “{{}}” ({self.name})"
        # Names of groups may contain braces, so this is no `format`.
        return words.replace("{}", name, 1)

    def time(self, group: int) -> str:
        """Returns when the items of a segment of the horizon are expected."""
        first = group * self.length + 1
        last = (group + 1) * self.length
        if last == 1:
            return "as the next item"
        if first == last:
            return "as the item after the next" if first == 2 else f"as item {first} from now"
        if first == 1:
            return f"within the next {last} items"
        return f"within the next {first} to {last} items"


# The groups on a path by their roles: the numbers of their levels, and their own.
_Groups = dict[str, list[tuple[int, int]]]


class HasPaths(Protocol):
    """A prior tree, of a run or of an export."""

    @property
    def levels(self) -> Iterable[object]:
        """The levels of the tree."""
        ...

    def groups_at(self, level: int) -> Tensor:
        """Returns int64 [K]: the index of each path's group at a level; -1 for none."""
        ...


@dataclass(frozen=True)
class Label:
    """A label of an item.

    Attributes:
        noun: what items with this label are called, such as "Comedy".
        inside: the number of items in the history that have it, too.
    """

    noun: str
    inside: int


@dataclass(frozen=True)
class Facts:
    """What is known of the user to whom an item is recommended, and of the item.

    Attributes:
        source: what answers: the model, or popularity.
        history: the number of items in the history.
        inside: how many of them the winning head may retrieve.
        times: how often the history has the item itself.
        label: the label of the item that is most frequent in the history; None without labels.
        known_levels: the levels of users of which the user's groups are known.
    """

    source: Source = "model"
    history: int = 0
    inside: int = 0
    times: int = 0
    label: Label | None = None
    known_levels: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Sentence:
    """The reason of a path, in which only the numbers of the history are missing.

    Attributes:
        items: what the history is said to have; "" if the reason does not depend on it.
        rest: the words after that.
        names_label: whether the head says nothing about the item, so that its label is named.
    """

    items: str
    rest: str
    names_label: bool = False

    def of_history(self, inside: int, history: int, label: Label | None = None) -> str:
        """Returns the reason; the arguments are those of `Facts`."""
        if self.names_label:
            return f"because it fits your history{_labelled(label, history)}{self.rest}"
        if not self.items:
            return self.rest
        evidence = f"({inside:,} of the {history:,} items in your history)"
        if inside >= LIKED:
            return f"because you like {self.items} {evidence}{self.rest}"
        if inside:
            return f"because you have had {self.items} before {evidence}{self.rest}"
        return f"because your history leads to {self.items}, new to you{self.rest}"


class Reasons:
    """Writes reasons. Any thread may call it.

    Attributes:
        name_labels: whether some heads say nothing about an item, so that its label is named.
    """

    def __init__(self, tree: HasPaths) -> None:
        self._kept: dict[tuple[int, Source, frozenset[int]], Sentence] = {}
        self._levels = [LevelWords.of(level) for level in tree.levels]
        self._group_LK = [tree.groups_at(number).tolist() for number in range(len(self._levels))]
        self.name_labels = _some_say_nothing(tree, self._levels)

    def of_path(self, path: int, facts: Facts) -> str:
        """Returns the reason for an item that got its score from the head of a path."""
        sentence = self.sentence(path, facts.source, facts.known_levels)
        return sentence.of_history(facts.inside, facts.history, facts.label)

    def sentence(self, path: int, source: Source, known_levels: frozenset[int]) -> Sentence:
        """Returns the reason of a path without the numbers of the history.

        The last sentences are kept, as writing one takes longer than all else of a reason. The
        arguments are those of `Facts`.
        """
        key = (path, source, known_levels)
        sentence = self._kept.get(key)
        if sentence is None:
            sentence = self._write(self._groups_of(path), source, known_levels)
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = sentence
        return sentence

    def of_repeat(self, facts: Facts) -> str:
        """Returns the reason for an item that got its score from the repeat head."""
        times = f", {facts.times:,} times" if facts.times > 1 else ""
        return f"because you have had it before{times}"

    def _write(self, groups: _Groups, source: Source, known_levels: frozenset[int]) -> Sentence:
        """Writes the sentence of a path."""
        items = self._items(groups)
        users = self._users(groups, known_levels)
        if source == "popularity":
            return Sentence("", f"because {self._popular(groups, items, users)}")

        clauses = self._fitting(groups, users)
        expected = self._expected(groups)
        if items and self._is_counted(groups):
            return Sentence(items, "".join(f" and {clause}" for clause in clauses) + expected)
        if items:
            clauses.insert(0, f"your history leads to {items}")
        if not clauses:
            return Sentence("", expected, names_label=True)
        return Sentence("", f"because {' and '.join(clauses)}{expected}")

    def _groups_of(self, path: int) -> _Groups:
        """Returns the groups on a path."""
        groups: _Groups = {}
        for number, (level, group_K) in enumerate(zip(self._levels, self._group_LK, strict=True)):
            if group_K[path] >= 0:
                role = _ROLES.get(level.kind, "other")
                groups.setdefault(role, []).append((number, group_K[path]))
        return groups

    def _is_counted(self, groups: _Groups) -> bool:
        """Whether labels of items alone decide which items the head of a path may retrieve."""
        restricting = {
            role
            for role, of_role in groups.items()
            if any(self._levels[level].restricts_items for level, _ in of_role)
        }
        return restricting == {"items"}

    def _fitting(self, groups: _Groups, users: str) -> list[str]:
        """Returns what the item has to do with the user, besides the labels of the item."""
        clauses = []
        if users:
            clauses.append(f"it suits {users}")
        for name in self._names(groups, "interests"):
            clauses.append(f"it fits an interest that the model sees in your history ({name})")
        for name in self._names(groups, "other"):
            clauses.append(f"it fits the group “{name}”")
        for name in self._names(groups, "controls"):
            clauses.append(f"it fits the control group “{name}”, which has no meaning")
        return clauses

    def _expected(self, groups: _Groups) -> str:
        """Returns the words on the event and on the time."""
        times = [self._levels[level].time(group) for level, group in groups.get("times", [])]
        time = " and ".join(times)
        events = self._events(groups)
        if events:
            return f"; {events} is expected {time}".rstrip()
        return f", expected {time}" if time else ""

    def _popular(self, groups: _Groups, items: str, users: str) -> str:
        """Returns the words on popularity, which depends on items, users and events."""
        words = "it is popular"
        if items:
            words += f" in {items}"
        if users:
            words += f" with {users}"
        events = self._events(groups)
        if events:
            words += f", counting only {events}"
        return words

    def _items(self, groups: _Groups) -> str:
        """Returns what items with all labels of a path are called; "" without labels."""
        nouns = [self._levels[level].noun(group) for level, group in groups.get("items", [])]
        if len(nouns) < 2:
            return "".join(nouns)
        return f"what belongs to {', '.join(nouns[:-1])} and {nouns[-1]} at once"

    def _users(self, groups: _Groups, known_levels: frozenset[int]) -> str:
        """Returns what the users of a path are called; "" without groups of users."""
        nouns = []
        for level, group in groups.get("users", []):
            like_you = " like you" if level in known_levels else ""
            nouns.append(f"{self._levels[level].noun(group)}{like_you}")
        return " and ".join(nouns)

    def _events(self, groups: _Groups) -> str:
        """Returns what the events of a path are called; "" without events."""
        nouns = [self._levels[level].noun(group) for level, group in groups.get("events", [])]
        return " and ".join(nouns)

    def _names(self, groups: _Groups, role: str) -> list[str]:
        """Returns the names of the groups of a role."""
        return [self._levels[level].groups[group] for level, group in groups.get(role, [])]


def _some_say_nothing(tree: HasPaths, levels: Sequence[LevelWords]) -> bool:
    """Returns whether a path has no groups, or only segments of the horizon and events."""
    says: Tensor | None = None
    for number, level in enumerate(levels):
        if _ROLES.get(level.kind, "other") not in ("times", "events"):
            through_K = tree.groups_at(number) >= 0
            says = through_K if says is None else says | through_K
    return says is None or not bool(says.all())


def _labelled(label: Label | None, history: int) -> str:
    """Returns in brackets what an item is, and how many items of the history are the same."""
    if label is None:
        return ""
    if not label.inside:
        return f" ({label.noun}, new to you)"
    if history == 1:
        return f" ({label.noun}, like its only item)"
    return f" ({label.noun}, like {label.inside:,} of its {history:,} items)"
