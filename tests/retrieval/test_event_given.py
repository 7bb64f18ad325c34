"""Users whose next events are known are served by the heads of those events alone, as the definition says."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_trees import EVENTS, USERS, cases

from torchrec_priors.data.histories import Histories
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.event_given import EventGiven, levels_of_events, paths_of_events
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.fusion import Fusion, blocks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import search_reference
from torchrec_priors.retrieval.search_types import Queries
from torchrec_priors.settings.evaluation import RetrievalConfig

KINDS = ("event", "event", "item", "temporal", "user")


def _is_open(path, case, event):
    """Through a level of events, and only through groups that the event is in."""
    through = [
        (n, g) for n, g in zip(path.levels, path.groups, strict=True) if _is_of_events(case, n)
    ]
    return bool(through) and all(g in _groups(case, n, event) for n, g in through)


def _is_of_events(case, number):
    return type(case.levels[number].prior).__name__ == "EventPrior"


def _groups(case, number, event):
    index, group = case.levels[number].prior.of_events.pairs(event, event + 1)
    assert set(index.tolist()) == {event}
    return set(group.tolist())


@settings(deadline=None, max_examples=100)
@given(cases(KINDS))
def test_a_path_is_open_to_the_events_of_its_groups(case):
    numbers = [number for number in range(len(case.levels)) if _is_of_events(case, number)]
    assert levels_of_events(case.tree) == numbers
    if numbers:
        expected = [
            [_is_open(path, case, event) for path in case.tree.paths] for event in range(EVENTS)
        ]
        assert paths_of_events(case.tree, EVENTS).tolist() == expected


@dataclasses.dataclass
class Model:
    """What a finder asks a model for."""

    tree: PriorTree
    score: Score
    gate: object = None
    certainty: object = None
    repeat_head: object = None
    joint: object = None
    encoder: object = None


@settings(deadline=None, max_examples=80)
@given(
    cases(KINDS),
    st.lists(
        st.tuples(st.integers(0, USERS - 1), st.lists(st.integers(0, EVENTS - 1), min_size=1)),
        max_size=4,
    ),
    st.sampled_from(["max", "mean", "hierarchical"]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_what_is_found_is_what_the_definition_finds_with_those_paths_alone(
    case, people, kind, calibrated, seed
):
    """Calibrated means take an item's c(i) from the paths that are used: not from other branches of an additive tree.

    The definition knows nothing of closed paths: it is given the tree's paths with the open ones' items alone.
    """
    assume(levels_of_events(case.tree))
    paths, items = case.tree.paths, case.items
    generator = torch.Generator().manual_seed(seed)
    table_Vd, query = (
        torch.randn(*shape, generator=generator)
        for shape in ((items, 4), (len(people), len(paths), 4))
    )
    lengths = [len(events) for _, events in people]
    users = dataclasses.replace(
        Histories.of(pa.array(range(len(people))), [np.zeros(1, np.int64)] * len(people), [], 1),
        users=np.array([user for user, _ in people], np.int64),
        target_lengths=np.array(lengths, np.int64),
        target_columns={
            "events": np.array([event for _, events in people for event in events], np.int64)
        },
    )
    config = RetrievalConfig(filter_seen=False, fusion=kind)
    with join():
        model = Model(case.tree, Score("dot"))
        index = GroupIndex(case.tree, Shard(table_Vd, 0))
        finder = Finder(model, index, config, torch.device("cpu"))
        finder.fusion = dataclasses.replace(finder.fusion, calibrated=calibrated)
        allowed_BK = case.tree.paths_of_users.allowed(torch.from_numpy(users.users))
        queries = Queries.unbiased(query)
        queries = queries if allowed_BK is None else queries.within(allowed_BK)
        found = EventGiven(finder, EVENTS).find(users, queries, k=items + 1)

    omega = case.tree.eligible(0, items)
    alternatives_KV = torch.from_numpy(_alternatives(case, paths))
    fusion = Fusion(kind, calibrated, blocks(case.tree))
    for number, (_, events) in enumerate(people):
        eligible_KV = torch.zeros(len(paths), items, dtype=torch.bool)
        for k, path in enumerate(paths):
            mine = allowed_BK is None or bool(allowed_BK[number, k])
            if mine and any(_is_open(path, case, event) for event in events):
                eligible_KV[k, omega[path.item_set]] = True
        one = Queries.unbiased(query[number : number + 1])
        expected = search_reference(
            table_Vd, eligible_KV, one, None, items + 1, fusion, alternatives_KV
        )
        torch.testing.assert_close(
            found.score_Bk[number], expected.score_Bk[0], rtol=1e-5, atol=1e-5
        )
        shown = expected.row_Bk[0] >= 0
        assert torch.equal(found.row_Bk[number][shown], expected.row_Bk[0][shown])
        assert (found.row_Bk[number][~shown] == -1).all()


def _alternatives(case, paths):
    """c(i) of each path, in the tree whose levels beside those of events are none where nothing is combined."""
    c_KV = np.ones((len(paths), case.items))
    additive = case.tree.composition == "additive"
    numbers = [
        number for number in range(len(case.levels)) if not additive or _is_of_events(case, number)
    ]
    each = np.ones((len(case.levels), case.items), int)
    for number in numbers:
        level = case.levels[number]
        groups = range(len(level.prior.groups))
        held = np.array(
            [sum(item in level.omega(group) for group in groups) for item in range(case.items)]
        )
        each[number] = 1 if level.of_user else (held > 0) if _is_of_events(case, number) else held
    for k, path in enumerate(paths):
        c_KV[k] = each[list(path.levels)].prod(0) * (
            sum(each[n] > 0 for n in numbers) if additive else 1
        )
    return np.maximum(c_KV, 1)


@pytest.mark.parametrize("composition", ["hierarchical", "multiplicative", "additive"])
def test_a_tree_without_events_has_no_such_level(composition):
    assert levels_of_events(PriorTree([], 3, composition)) == []
