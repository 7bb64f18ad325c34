"""Items drawn all at once are those drawn one row after another."""

import numpy as np
import pytest

from torchrec_priors.synthetic.mixed.pools import Pools
from torchrec_priors.synthetic.mixed.unseen import TURNS, draw_unseen
from torchrec_priors.synthetic.randomness import Stream, counter_of, uniform, user_keys
from torchrec_priors.synthetic.rows import Rows


def _one_by_one(pools, whole, rows, pool):
    """The definition: each row's first draw that no earlier row of the user has."""
    position, gave_up = [], []
    for row in range(len(pool)):
        seen = set(position[rows.start[rows.user[row]] : row])
        for turn in range(2 * TURNS):
            number = pool[row] if turn < TURNS else whole
            at = uniform(rows.key[row : row + 1], Stream.item, counter_of(rows.step[row], turn))
            item = int(pools.draw(np.array([number]), at)[0])
            if item not in seen:
                break
        position.append(item)
        gave_up.append(turn >= TURNS)
    return position, gave_up


@pytest.mark.parametrize("items", [12, 40, 400])
def test_all_at_once_is_one_by_one(items):
    """With 12 items all are seen soon, so some rows give up, and others repeat an item."""
    random = np.random.default_rng(items)
    pools = Pools(
        random.random(items) ** 3 + 1e-3,
        [random.permutation(items)[: items // 4] for _ in range(5)] + [np.arange(items)],
    )
    rows = Rows(user_keys(1, np.arange(7)), np.array([1, 30, 2, 60, 5, 25, 40]), 8.0)
    pool = random.integers(0, 6, len(rows.user))
    drawn = draw_unseen(pools, 5, rows, pool)
    position, gave_up = _one_by_one(pools, 5, rows, pool)
    assert drawn.position.tolist() == position
    assert drawn.gave_up.tolist() == gave_up
    if items == 12:
        assert any(gave_up)
    if items == 400:
        assert not any(gave_up)


def test_items_of_a_pool_are_drawn_by_popularity():
    weight = np.array([5.0, 1.0, 3.0, 1.0, 90.0])
    pools = Pools(weight, [np.array([4]), np.array([3, 0, 2]), np.arange(5)])
    at = (np.arange(90_000) + 0.5) / 90_000
    drawn = pools.draw(np.full(len(at), 1), at)
    assert np.bincount(drawn, minlength=5).tolist() == [50_000, 0, 30_000, 10_000, 0]
    assert pools.mass.tolist() == [90.0, 9.0, 100.0]
    assert pools.share(np.array([True, False, False, True, False])).tolist() == [0, 6 / 9, 6 / 100]
    assert pools.spread(np.array([1.0, 2.0, 0.5])).tolist() == [12.5, 0.5, 7.5, 2.5, 135.0]
