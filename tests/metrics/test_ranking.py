"""Metrics are what their definitions say (design, section 7), however users are batched and shared."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import CUTOFFS, DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics

EVENTS = 3


@dataclass
class Prior:
    """Labels of each item, event or user; every item of the category prior has at least one."""

    name: str
    groups: list[str]
    labels: list[set[int]]
    entity: str = "item"

    def categories(self) -> Categories:
        pairs = [(entity, group) for entity, groups in enumerate(self.labels) for group in groups]
        entity, group = np.array(pairs[::-1], np.int64).reshape(-1, 2).T  # in any order
        return Categories.from_pairs(
            self.name, self.groups, entity, group, len(self.labels), self.entity
        )


@dataclass
class User:
    """A user with the items found, those found when told the events, and targets with their events."""

    ranked: list[int]
    targets: list[int]
    history: list[int]
    events: list[int] | None = None
    told: list[int] | None = None
    number: int = 0


@dataclass
class Case:
    """A catalogue, its priors (the first is the category prior), and users with their recommendations."""

    frequency: np.ndarray
    priors: list[Prior]
    users: list[User]
    event_given: bool = False

    @property
    def items(self) -> int:
        return len(self.frequency)


@st.composite
def cases(draw):
    items = draw(st.one_of(st.integers(1, 30), st.integers(195, 260)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    priors = []
    for name in ("genre", "brand")[: draw(st.integers(1, 2))]:
        groups = draw(st.integers(1, 5))
        sizes = random.integers(1, groups + 1, items)
        labels = [set(random.choice(groups, size, replace=False).tolist()) for size in sizes]
        priors.append(Prior(name, [f"{name} {number}" for number in range(groups)], labels))
    people = draw(st.integers(1, 6))
    for name, entity, entities in (
        ("graph", "item", items),
        ("event", "event", EVENTS),
        ("user", "user", people),
    ):
        groups = draw(st.integers(1, 4))
        sizes = random.integers(0, groups + 1, entities)  # of none, of several, of all
        labels = [set(random.choice(groups, size, replace=False).tolist()) for size in sizes]
        priors.append(Prior(name, [f"{name} {number}" for number in range(groups)], labels, entity))
    users = []
    for number in random.permutation(people).tolist():
        shown = draw(st.one_of(st.just(items), st.integers(0, items)))
        ranked, told = (random.permutation(items)[: min(shown, DEPTH)].tolist() for _ in range(2))
        targets = random.integers(0, items, draw(st.integers(1, 9))).tolist()  # repeats included
        history = random.integers(0, items, draw(st.integers(1, 4))).tolist()
        events = random.integers(0, EVENTS, len(targets)).tolist()
        users.append(User(ranked, targets, history, events, told, number))
    return Case(random.integers(0, 20, items), priors, users, event_given=draw(st.booleans()))


def _accumulator(case: Case) -> RankingMetrics:
    category, *others = (prior.categories() for prior in case.priors)
    return RankingMetrics(
        case.items, case.frequency, category, others, event_given=case.event_given
    )


def _rows(lists: list[list[int]], depth: int) -> np.ndarray:
    rows = np.full((len(lists), depth), -1)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = items
    return rows


def _update(metrics: RankingMetrics, users: list[User], depth: int = DEPTH) -> None:
    lists = {
        part: [np.array(getattr(user, part) or [], np.int64) for user in users]
        for part in ("targets", "history", "events")
    }
    histories = Histories.of(
        pa.array([user.number for user in users], pa.int64()),
        lists["history"],
        lists["targets"],
        context=2,
        users=[user.number for user in users],
        target_columns={"events": lists["events"]} if "events" in metrics.needs else None,
    )
    told = _rows([user.told or [] for user in users], depth) if metrics.event_given else None
    metrics.update(histories, _rows([user.ranked for user in users], depth), told)


def _results(case: Case) -> dict[str, float | int | None]:
    metrics = _accumulator(case)
    _update(metrics, case.users)
    return metrics.results()


def _recall(ranked: list[int], targets: set[int], k: int) -> float:
    return len(targets & set(ranked[:k])) / len(targets)


def _ndcg(ranked: list[int], targets: set[int], k: int) -> float:
    gain = sum(
        1 / math.log2(rank + 1) for rank, item in enumerate(ranked[:k], 1) if item in targets
    )
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(targets)) + 1))
    return gain / ideal


def _entropy(ranked: list[int], labels: list[set[int]], k: int) -> float:
    groups = {group for item in ranked[:k] for group in labels[item]}
    n = {group: sum(group in labels[item] for item in ranked[:k]) for group in groups}
    return -sum(n[group] / k * math.log2(n[group] / k) for group in groups)


def _explores(user: User, labels: list[set[int]]) -> bool:
    known = {group for item in user.history for group in labels[item]}
    return any(group not in known for item in user.targets for group in labels[item])


def _targets_in(user: User, prior: Prior, group: int) -> set[int]:
    """The targets that a group is scored on."""
    if prior.entity == "item":
        return {item for item in user.targets if group in prior.labels[item]}
    if prior.entity == "event":
        pairs = zip(user.targets, user.events, strict=True)
        return {item for item, event in pairs if group in prior.labels[event]}
    return set(user.targets) if group in prior.labels[user.number] else set()


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_definition(case: Case) -> dict[str, float | int | None]:
    """Every metric, from the definitions, one user at a time."""
    out: dict[str, float | int | None] = {}
    labels = case.priors[0].labels
    explorers = [user for user in case.users if _explores(user, labels)]
    for prefix, users in (("", case.users), ("new_interest/", explorers)):
        out[f"{prefix}users"] = len(users)
        for k in CUTOFFS:
            out[f"{prefix}recall@{k}"] = _mean(
                [_recall(user.ranked, set(user.targets), k) for user in users]
            )
            out[f"{prefix}ndcg@{k}"] = _mean(
                [_ndcg(user.ranked, set(user.targets), k) for user in users]
            )
            out[f"{prefix}entropy@{k}"] = _mean(
                [_entropy(user.ranked, labels, k) for user in users]
            )
    for k in CUTOFFS:
        shown = [item for user in case.users for item in user.ranked[:k]]
        times = np.bincount(np.array(shown, int), minlength=case.items)
        out[f"coverage@{k}"] = len(set(shown)) / case.items
        differences = np.abs(times[:, None] - times[None, :]).mean()
        out[f"gini@{k}"] = differences / (2 * times.mean()) if shown else 0.0
        popularity = [
            (case.frequency[item] + 1) / (case.frequency.sum() + case.items) for item in shown
        ]
        out[f"novelty@{k}"] = _mean([-math.log2(share) for share in popularity]) or 0.0
        if case.event_given:
            told = [(user.told, user) for user in case.users]
            out[f"event_given/recall@{k}"] = _mean(
                [_recall(ranked, set(user.targets), k) for ranked, user in told]
            )
            out[f"event_given/ndcg@{k}"] = _mean(
                [_ndcg(ranked, set(user.targets), k) for ranked, user in told]
            )
            out[f"event_given/entropy@{k}"] = _mean(
                [_entropy(ranked, labels, k) for ranked, user in told]
            )
    for prior in case.priors:
        for number, group in enumerate(prior.groups):
            inside = [(user.ranked, _targets_in(user, prior, number)) for user in case.users]
            inside = [(ranked, targets) for ranked, targets in inside if targets]
            name = f"group/{prior.name}/{group}"
            out[f"{name}/users"] = len(inside)
            out[f"{name}/targets"] = sum(len(targets) for _, targets in inside)
            for k in CUTOFFS:
                out[f"{name}/recall@{k}"] = _mean(
                    [_recall(ranked, targets, k) for ranked, targets in inside]
                )
                out[f"{name}/ndcg@{k}"] = _mean(
                    [_ndcg(ranked, targets, k) for ranked, targets in inside]
                )
    return out | _of_cold_items(case)


def _of_cold_items(case: Case) -> dict[str, float | int | None]:
    """The metrics of items without training interactions; none if there are no such items."""
    cold = set(np.flatnonzero(case.frequency == 0).tolist())
    if not cold:
        return {}
    pairs = [(user.ranked, set(user.targets) & cold) for user in case.users]
    pairs = [(ranked, targets) for ranked, targets in pairs if targets]
    out: dict[str, float | int | None] = {
        "cold/items": len(cold),
        "cold/targets": sum(len(targets) for _, targets in pairs),
        "cold/users": len(pairs),
    }
    for k in CUTOFFS:
        shown = [item for user in case.users for item in user.ranked[:k]]
        out[f"cold/recall@{k}"] = _mean([_recall(ranked, targets, k) for ranked, targets in pairs])
        out[f"cold/ndcg@{k}"] = _mean([_ndcg(ranked, targets, k) for ranked, targets in pairs])
        out[f"cold/coverage@{k}"] = len(cold & set(shown)) / len(cold)
        out[f"cold/share@{k}"] = _mean([float(item in cold) for item in shown])
    return out


def _same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


@settings(deadline=None, max_examples=50)
@given(cases())
def test_every_metric_is_what_its_definition_says(case):
    _same(_results(case), _by_definition(case))


@settings(deadline=None, max_examples=30)
@given(cases(), st.data())
def test_users_may_come_in_any_batches(case, data):
    bounds = sorted(data.draw(st.lists(st.integers(0, len(case.users)), max_size=3)))
    metrics = _accumulator(case)
    for low, high in zip([0, *bounds], [*bounds, len(case.users)], strict=True):
        _update(metrics, case.users[low:high], depth=DEPTH + 3)
    _same(metrics.results(), _results(case))


def _add_up(accumulators: list[RankingMetrics]) -> None:
    """Calls `sum_over` of each as ranks do: the i-th call of all adds up the i-th tensors of all."""
    sent: list[list[torch.Tensor]] = []
    for metrics in accumulators:
        own: list[torch.Tensor] = []
        metrics.sum_over(lambda tensor, own=own: own.append(tensor.clone()) or tensor)
        sent.append(own)
    assert all(
        len({tensor.shape for tensor in tensors}) == 1 for tensors in zip(*sent, strict=True)
    )
    totals = [sum(tensors[1:], tensors[0]) for tensors in zip(*sent, strict=True)]
    for metrics in accumulators:
        turn = iter(totals)
        metrics.sum_over(lambda tensor, turn=turn: next(turn))


@settings(deadline=None, max_examples=30)
@given(cases(), st.integers(1, 4), st.data())
def test_ranks_add_up_to_one_process_even_one_without_users(case, world, data):
    rank_of = [data.draw(st.integers(0, world - 1)) for _ in case.users]
    ranks = [_accumulator(case) for _ in range(world)]
    for rank, metrics in enumerate(ranks):
        mine = [user for user, owner in zip(case.users, rank_of, strict=True) if owner == rank]
        if mine:
            _update(metrics, mine)
    _add_up(ranks)
    for metrics in ranks:
        _same(metrics.results(), _results(case))


def _one(user: User, items: int = 300, labels: list[set[int]] | None = None) -> dict:
    prior = Prior("genre", ["a", "b", "c", "d"], labels or [{0} for _ in range(items)])
    return _results(Case(np.ones(items, int), [prior], [user]))


def test_values_worked_by_hand():
    """Two hits, at ranks 1 and 3, for three distinct targets of which one is repeated."""
    found = _one(User([7, 8, 9, 10, 11], targets=[9, 7, 9, 200], history=[1]))
    assert found["recall@5"] == pytest.approx(2 / 3)
    assert found["ndcg@5"] == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2))
    assert found["novelty@5"] == pytest.approx(math.log2(300))
    assert found["coverage@5"] == pytest.approx(5 / 300)
    assert found["users"] == 1


def test_a_perfect_list_has_recall_and_ndcg_one_wherever_k_allows():
    found = _one(User(list(range(200)), targets=list(range(8)), history=[0]))
    assert found["recall@5"] == pytest.approx(5 / 8)
    assert [
        found[name] for name in ("recall@10", "ndcg@5", "ndcg@10", "ndcg@200")
    ] == pytest.approx([1, 1, 1, 1])


def test_entropy_of_evenly_spread_categories_is_the_log_of_their_number():
    labels = [{item % 4} for item in range(300)]
    found = _one(User(list(range(200)), [0], [0]), labels=labels)
    assert found["entropy@200"] == pytest.approx(2)
    found = _one(User(list(range(0, 300, 4)), [0], [0]), labels=labels)
    assert found["entropy@50"] == pytest.approx(0)


def test_new_interest_looks_at_any_category_of_any_target_against_the_whole_history():
    labels = [{0}, {1}, {0, 1}, {0, 2}]
    for targets, history, explores in (
        ([0], [0], False),
        ([2], [0], True),
        ([2], [0, 1], False),
        ([0, 3], [2, 2, 1], True),
        ([0, 3], [3], False),
        ([1, 0], [3], True),
    ):
        found = _one(User([0, 1], targets, history), 4, labels)
        assert found["new_interest/users"] == int(explores), (targets, history)
        assert found["new_interest/recall@5"] == (found["recall@5"] if explores else None)


def test_gini_is_zero_where_all_items_are_shown_alike_and_near_one_for_one_item_alone():
    assert _one(User(list(range(5)), [0], [0]), 5)["gini@5"] == pytest.approx(0)
    assert _one(User([0], [0], [0]), 300)["gini@5"] == pytest.approx(1 - 1 / 300)


def test_padding_is_no_hit_even_beside_the_previous_users_last_item():
    """-1 of a user is, in a flat numbering of (user, item), the last item of the user before."""
    users = [User([0], targets=[4], history=[0]), User([], targets=[0], history=[0])]
    prior = Prior("genre", ["a"], [{0}] * 5)
    found = _results(Case(np.ones(5, int), [prior], users))
    assert (found["recall@5"], found["ndcg@200"], found["coverage@5"]) == (
        0,
        0,
        pytest.approx(1 / 5),
    )


def test_an_item_is_a_target_of_every_event_it_is_due_for_and_an_event_of_several_groups_counts_once_in_each():
    """Item 4 is viewed twice and bought; `any` holds both events. A user of two groups is scored in both."""
    category = Prior("genre", ["a"], [{0}] * 9)
    events = Prior("action", ["view", "buy", "any", "never"], [{0, 2}, {1, 2}, set()], "event")
    people = Prior("club", ["x", "y", "z"], [{0, 2}], "user")
    user = User([4, 5, 6], targets=[4, 4, 4, 7], history=[0], events=[0, 1, 0, 1])
    found = _results(Case(np.ones(9, int), [category, events, people], [user]))
    expected = {"view": (1, 1.0), "buy": (2, 0.5), "any": (2, 0.5), "never": (0, None)}
    for group, (targets, recall) in expected.items():
        assert found[f"group/action/{group}/targets"] == targets
        assert found[f"group/action/{group}/users"] == (targets > 0)
        assert found[f"group/action/{group}/recall@5"] == recall
    assert [found[f"group/club/{group}/targets"] for group in "xyz"] == [2, 0, 2]
    assert found["group/club/x/ndcg@10"] == found["group/club/z/ndcg@10"] == found["ndcg@10"]
    assert found["group/club/y/ndcg@10"] is None
