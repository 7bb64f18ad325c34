"""Random prior trees of all kinds, each level with its definition as plain Python sets."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.priors import all as all_groups
from torchrec_priors.priors import random as random_groups
from torchrec_priors.priors.event import EventPrior
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.prior import Memberships, Targets
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.priors.user import UserPrior

HORIZON, EVENTS, USERS = 4, 3, 5
KINDS = ("temporal", "item", "event", "user", "random", "all")
COMPOSITIONS = ("hierarchical", "multiplicative", "additive")


@dataclass(frozen=True)
class Target:
    item: int
    offset: int
    event: int
    user: int


@dataclass(frozen=True)
class Level:
    """A prior and its two relations: which groups a target belongs to (Eq. 6), which items a group may retrieve,
    none where it has no users.

    Attributes:
        of_user: groups of a user, where they are for their users alone.
    """

    prior: object
    of_target: Callable[[Target], set[int]]
    omega: Callable[[int], set[int]]
    of_user: Callable[[int], set[int]] | None = None


@dataclass(frozen=True)
class Case:
    tree: PriorTree
    levels: list[Level]
    items: int


def _pairs(sets):
    pairs = [(entity, group) for entity, groups in enumerate(sets) for group in sorted(groups)]
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _sets(draw, entities, groups, least):
    """Groups of each entity; some groups may be empty, some have one member, some entities be in all."""
    return [draw(st.sets(st.integers(0, groups - 1), min_size=least)) for _ in range(entities)]


def _level(draw, kind, number, items):
    everything = set(range(items))
    if kind == "temporal":
        prior = TemporalPrior(draw(st.sampled_from([1, 2, 4])), HORIZON)
        return Level(
            prior, lambda t: {(t.offset - 1) * len(prior.groups) // HORIZON}, lambda _: everything
        )
    groups = draw(st.integers(1, 3))
    names = [f"{kind} {number} {group}" for group in range(groups)]
    if kind in ("random", "all"):
        module = {"random": random_groups, "all": all_groups}[kind]
        prior = module.load(str(groups), SimpleNamespace(items=items), HORIZON)
        prior.name = f"{kind}{number}"
        of_item = [set(range(groups))] * items
        if kind == "random":
            of_item = [{int(group)} for group in random_groups.draw(np.arange(items), 0, groups)]
    elif kind == "user":
        of_user = _sets(draw, USERS, groups, 1)
        prior = UserPrior(f"user{number}", names, *_pairs(of_user), USERS)
        there = set().union(*of_user)  # a group without users has no head
        omega = lambda group: everything if group in there else set()  # noqa: E731
        return Level(prior, lambda t: of_user[t.user], omega, lambda user: of_user[user])
    else:
        of_item = _sets(draw, items, groups, 0)
    if kind == "item":
        prior = ItemPrior(f"item{number}", names, *_pairs(of_item), items)
    if kind == "event":
        of_event = _sets(draw, EVENTS, groups, 1)
        memberships = [
            Memberships.from_pairs(*_pairs(sets), len(sets)) for sets in (of_event, of_item)
        ]
        prior = EventPrior(f"event{number}", names, *memberships)
        omega = lambda group: {item for item in everything if group in of_item[item]}  # noqa: E731
        return Level(prior, lambda t: of_event[t.event], omega)
    return Level(
        prior,
        lambda t: of_item[t.item],
        lambda g: {item for item in everything if g in of_item[item]},
    )


@st.composite
def cases(draw, kinds=KINDS, most=3, compositions=COMPOSITIONS):
    """Trees of up to `most` levels."""
    items = draw(st.integers(1, 9))
    chosen = draw(st.lists(st.sampled_from(kinds), max_size=most))
    assume(chosen.count("temporal") <= 1)
    levels = [_level(draw, kind, number, items) for number, kind in enumerate(chosen)]
    composition = draw(st.sampled_from(compositions))
    try:
        tree = PriorTree([level.prior for level in levels], items, composition)
    except UserError:  # no item is in any group
        assume(False)
        raise
    return Case(tree, levels, items)


targets = st.lists(
    st.builds(
        Target,
        item=st.integers(0, 10**6),
        offset=st.integers(1, HORIZON),
        event=st.integers(0, EVENTS - 1),
        user=st.integers(0, USERS - 1),
    ),
    max_size=8,
)


def of_tree(drawn: list[Target], case: Case) -> list[Target]:
    """The targets with items that there are."""
    return [
        Target(target.item % case.items, target.offset, target.event, target.user)
        for target in drawn
    ]


def as_tensors(chosen: list[Target]) -> Targets:
    columns = [[getattr(t, name) for t in chosen] for name in ("item", "offset", "event", "user")]
    return Targets(*(torch.tensor(column, dtype=torch.int64) for column in columns))
