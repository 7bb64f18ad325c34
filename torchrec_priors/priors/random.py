"""Control (paper A.1.3): every item in one group drawn uniformly, as many groups as a prior of people has.

Where that prior groups users, it is every user who is drawn a group.
"""

import numpy as np

from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.prior import prior_of_data
from torchrec_priors.priors.user import UserPrior
from torchrec_priors.splitmix import GOLDEN, mix, unit

_LIKE = ("item", "graph", "user")


def load(argument: str, data: PreparedData, horizon: int) -> ItemPrior | UserPrior:
    """`argument`: how many groups, or the prior that has as many; then, as an option, ":" and a seed."""
    like, colon, seed = argument.partition(":")
    if colon and not seed.isdigit():
        raise UserError(f"priors.tree: 'random:{argument}' has no number as its seed: write 'random:{like}:7'")
    groups = how_many("random", like, data)
    names = [f"random {number + 1}" for number in range(groups)]
    if not like.isdigit() and prior_of_data(like, data, *_LIKE).kind == "user":
        users = np.arange(data.users)
        return UserPrior(f"random:{argument}", names, users, draw(users, int(seed or 0), groups), data.users)
    rows = np.arange(data.items)
    return ItemPrior(f"random:{argument}", names, rows, draw(rows, int(seed or 0), groups), data.items)


def how_many(control: str, like: str, data: PreparedData) -> int:
    """Groups of a control that is like a prior of the data set, or has a given number."""
    if like.isdigit() and int(like) > 0:
        return int(like)
    if not like or like.isdigit():
        raise UserError(f"priors.tree: '{control}:{like}' needs a number of groups or a prior: write '{control}:8'")
    return len(prior_of_data(like, data, *_LIKE).groups)


def draw(rows: np.ndarray, seed: int, groups: int) -> np.ndarray:
    """A group number for each row (or user), uniform, from (seed, row) alone (splitmix64).

    >>> draw(np.arange(6), 0, 4).tolist() == [int(draw(np.array([row]), 0, 4)[0]) for row in range(6)]
    True
    """
    state = np.zeros(len(rows), np.uint64)
    for value in (np.full(len(rows), seed, np.uint64), rows.astype(np.uint64)):
        state = mix((state ^ value) + GOLDEN)
    drawn: np.ndarray = (unit(state) * groups).astype(np.int64)
    return drawn
