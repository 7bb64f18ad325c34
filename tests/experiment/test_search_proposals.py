"""Proposals are a function of what was told, never the same twice, and heed the scores."""

import numpy as np
import pytest

from torchrec_priors.experiments.search.proposals import Proposals
from torchrec_priors.experiments.search.space import Between, OneOf

SPACE = {
    "rate": Between(1e-4, 1e-1, True),
    "tree": OneOf((["genre"], [], ["genre", "age"])),
    "layers": Between(1, 4, False),
}


def _score(values):
    return (
        -abs(np.log10(values["rate"]) + 2)
        - 0.1 * abs(values["layers"] - 3)
        - 0.2 * (values["tree"] != [])
    )


def _asked(count, own=None, seed=0, cell="a", space=SPACE, score=_score):
    """Values of `count` trials that are told in rounds of 4."""
    proposals, found = Proposals(space, own, cell, seed), []
    for first in range(0, count, 4):
        some = [proposals.ask() for _ in range(first, min(first + 4, count))]
        for number, values in enumerate(some, first):
            if values is not None:
                proposals.tell(number, score(values) if values else None)
        found += [values for values in some if values is not None]
    return found


def test_the_first_is_the_cell_as_it_stands_and_all_others_differ():
    own = {"rate": 1e-3, "tree": [], "layers": 2}
    first, *others = _asked(16, own)
    assert first == {}
    assert len(others) == 15
    for place, values in enumerate(others):
        assert all(SPACE[key].holds(value) for key, value in values.items())
        assert values not in [own, *others[:place]]


def test_the_same_again_and_others_of_another_seed_or_cell():
    assert _asked(14) == _asked(14)
    assert _asked(14)[:10] == _asked(10), "more trials are asked for: those that were made stay"
    assert _asked(14) != _asked(14, seed=1)
    assert _asked(14) != _asked(14, cell="b")


def test_a_small_space_is_tried_whole_and_no_further():
    space = {"dim": OneOf((8, 16)), "kind": OneOf(("x", "y")), "n": Between(1, 2, False)}
    found = _asked(
        20, {"dim": 8, "kind": "x", "n": 1}, space=space, score=lambda values: values["dim"]
    )
    assert len(found) == 8
    assert {tuple(values.values()) for values in found[1:]} == {
        (dim, kind, n) for dim in (8, 16) for kind in "xy" for n in (1, 2)
    } - {(8, "x", 1)}
    assert len(_asked(20, None, space=space, score=lambda values: 0.0)) == 9, (
        "as it stands is not in the space"
    )


def test_later_proposals_are_better_than_random_ones():
    early, late = [], []
    for seed in range(6):
        found = [_score(values) for values in _asked(28, seed=seed)[1:]]
        early += found[:6]
        late += found[-8:]
    assert np.mean(late) > np.mean(early) + 0.25


def test_what_fails_is_kept_away_from():
    def score(values):
        return None if values["x"] > 0.5 else 0.1

    space = {"x": Between(0.0, 1.0, False)}
    late = [
        values["x"]
        for seed in range(2)
        for values in _asked(20, seed=seed, space=space, score=score)[-8:]
    ]
    assert np.mean(np.array(late) > 0.5) < 0.3


@pytest.mark.parametrize(
    ("ends", "value", "rounded"),
    [((0.1, 0.5), 0.123456, 0.123), ((0.12345, 0.5), 0.12346, 0.12345)],
)
def test_values_of_a_range_are_short_and_inside(ends, value, rounded):
    assert Between(*ends, False).rounded(value) == rounded
