"""Items of the history have the scores of the repeat head, and compete with those of the other heads."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import _dense, cases

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import search, search_reference
from torchrec_priors.retrieval.search_types import Exclusions, Repeats


@pytest.fixture(scope="module", autouse=True)
def _world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@settings(deadline=None, max_examples=40)
@given(cases(most_items=20), st.data(), st.sampled_from(["max", "mean"]))
def test_equals_the_definition(case, data, kind):
    tree, table, queries, _, allowed, k, _ = case
    items, users = len(table), len(queries)
    pairs = [(user, row) for user in range(users) for row in range(items)]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    scores = data.draw(st.lists(st.integers(-4, 4), min_size=len(chosen), max_size=len(chosen)))

    user_R, row_R = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2).unbind(1)
    repeats = Repeats(user_R, row_R, torch.tensor(scores).float())
    excluded = Exclusions(user_R.numpy(), row_R.numpy())
    index = GroupIndex(tree, Shard(table, 0))
    if allowed is not None:
        index = index.restricted(torch.tensor(allowed))

    # What is in no item set, or not allowed, is not found.
    eligible, alternatives = _dense(tree, items, allowed)
    kept = eligible.any(0)[row_R]
    known = Repeats(user_R[kept], row_R[kept], repeats.score_R[kept])

    fusion = Fusion(kind)
    with_all = replace(queries, repeats=repeats)
    fast = search(index, Score("dot"), with_all, excluded, k, fusion)
    slow = search_reference(
        table, eligible, replace(queries, repeats=known), excluded, k, fusion, alternatives
    )
    assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
    assert fast.score_Bk.tolist() == slow.score_Bk.tolist()
    is_item = fast.row_Bk >= 0
    is_repeat = is_item & (fast.path_Bk == len(tree.paths))
    assert torch.equal(is_repeat, is_item & (slow.path_Bk == len(tree.paths)))
    found = {
        (user, int(row))
        for user, (rows, flags) in enumerate(zip(fast.row_Bk, is_repeat, strict=True))
        for row in rows[flags]
    }
    assert found <= set(chosen)


def test_each_users_bias_is_added_to_the_repeats_and_leaves_them_out_if_it_is_infinite():
    repeats = Repeats(
        torch.tensor([0, 1, 1]), torch.tensor([3, 3, 4]), torch.tensor([1.5, 2.0, 3.0])
    )
    biased = repeats.with_biases(torch.tensor([-1.0, 0.5]))
    assert biased.score_R.tolist() == [0.5, 2.5, 3.5]
    biased = repeats.with_biases(torch.tensor([-1.0, -torch.inf]))
    assert (biased.user_R.tolist(), biased.row_R.tolist()) == ([0], [3])
