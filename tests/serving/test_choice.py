"""Lists with least numbers of items of groups, against all lists there are."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchrec_priors.serving.choice import Candidate, choose, fewest


def _meets(masks, need):
    return all(
        sum(mask >> group & 1 for mask in masks) >= count for group, count in enumerate(need)
    )


def _slow(items, need, k):
    """(best list, met needs): of all lists that meet as much as can be met, in the order of the groups."""
    items = sorted(items, key=lambda item: (-item[1].score, item[1].row))
    lists = list(itertools.combinations(items, min(k, len(items))))  # in the order of a dictionary
    met = []
    for count in need:
        possible = [
            n
            for n in range(count + 1)
            if any(_meets([m for m, _ in some], [*met, n]) for some in lists)
        ]
        met.append(max(possible))
    return next(some for some in lists if _meets([mask for mask, _ in some], met)), met


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_equals_the_first_of_all_lists(data):
    groups = data.draw(st.integers(1, 3))
    masks = data.draw(st.lists(st.integers(0, 2**groups - 1), max_size=9))
    scores = data.draw(
        st.lists(st.integers(0, 4), min_size=len(masks), max_size=len(masks))
    )  # ties are common
    items = [
        (mask, Candidate(score, row, 0))
        for row, (mask, score) in enumerate(zip(masks, scores, strict=True))
    ]
    k = data.draw(st.integers(1, 5))
    need = data.draw(st.lists(st.integers(0, k), min_size=groups, max_size=groups))
    cells = {}
    for mask, item in sorted(items, key=lambda item: (-item[1].score, item[1].row)):
        cells.setdefault(mask, []).append(item)
    best, met = choose({mask: found[:k] for mask, found in cells.items()}, need, k)
    expected, expected_met = _slow(items, need, k)
    assert met == expected_met
    assert best == [item for _, item in expected]


@settings(deadline=None, max_examples=100)
@given(
    disjoint=st.booleans(),
    items=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), min_size=1, max_size=8),
    k=st.integers(1, 4),
    need=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_of_disjoint_or_nested_groups_no_other_list_has_a_larger_sum(disjoint, items, k, need):
    masks = [0b00, 0b01, 0b10] if disjoint else [0b00, 0b01, 0b11]
    items = [(masks[which], Candidate(score, row, 0)) for row, (which, score) in enumerate(items)]
    cells = {}
    for mask, item in sorted(items, key=lambda item: (-item[1].score, item[1].row)):
        cells.setdefault(mask, []).append(item)
    best, met = choose(cells, need, k)
    sums = [
        sum(item.score for _, item in some)
        for some in itertools.combinations(items, min(k, len(items)))
        if _meets([mask for mask, _ in some], met)
    ]
    assert sum(item.score for item in best) == max(sums)


@settings(deadline=None, max_examples=200)
@given(
    need=st.tuples(*[st.integers(0, 3)] * 3),
    counts=st.dictionaries(st.integers(0, 7), st.integers(0, 2), max_size=5),
)
@example(need=(1, 1, 1), counts={0b111: 1})
def test_fewest(need, counts):
    items = [mask for mask, count in counts.items() for _ in range(count)]
    sizes = [
        size
        for size in range(len(items) + 1)
        if any(_meets(some, need) for some in itertools.combinations(items, size))
    ]
    assert fewest(need, counts) == min(sizes, default=float("inf"))


@pytest.mark.parametrize("groups", [3, 5])
def test_many_overlapping_groups_take_no_longer_than_they_should(groups):
    cells = {
        mask: [Candidate(-mask * 100.0 - n, mask * 100 + n, 0) for n in range(50)]
        for mask in range(2**groups)
    }
    best, met = choose(cells, [50 // groups + 7] * groups, 50)
    assert len(best) == 50
    assert met == [50 // groups + 7] * groups


def test_five_groups_that_overlap_in_all_ways_are_chosen_at_once():
    random, k = np.random.default_rng(3), 1000
    cells = {}
    for mask in range(32):
        scores = np.sort(random.normal(size=int(random.choice([40, 300, k]))))[::-1]
        cells[mask] = [
            Candidate(float(score), mask * k + row, 0) for row, score in enumerate(scores)
        ]
    need = random.integers(150, 600, 5).tolist()

    before = time.process_time()
    best, met = choose(cells, need, k)
    assert time.process_time() - before < 20  # minutes and more by trying all

    assert met == need
    assert len(best) == k
    assert _meets([item.row // k for item in best], need)
