"""A control (paper A.1.3): a prior whose groups have random members.

The control is one of these:

    random:genre         the labels of a prior of the data set, permuted among its items or users
    random:temporal:4    as many segments of the horizon, all of which are equally soon on average
    random:8             eight groups of items; the group of each item is drawn uniformly

A permutation keeps the sizes of groups, and the number of items with two labels, three labels and
so on. All priors with the same seed are permuted in the same way, so groups of several priors also
keep their overlaps.
"""

import itertools

import numpy as np
import torch

from torchrec_priors.common.limits import MOST_GROUPS, check_most, whole_number
from torchrec_priors.common.splitmix import GOLDEN, mix, unit
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.load import prior_of_data
from torchrec_priors.priors.prior import Prior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.temporal import load as load_temporal
from torchrec_priors.priors.user import UserPrior

_MOST_SEED = 2**31 - 1
LIKE = ("item", "graph", "user")  # kinds of the data set's priors that a control can imitate
_TEMPORAL = "temporal:"


def load(argument: str, data: PreparedData, horizon: int) -> Prior:
    """Makes the control.

    Args:
        argument: a number of groups, or the prior that is permuted. A colon and a seed may follow.
        data: the prepared data set.
        horizon: the number of next interactions that training predicts (the paper's tau).
    """
    temporal = argument.startswith(_TEMPORAL)
    like, colon, seed = argument.removeprefix(_TEMPORAL).partition(":")
    seed_number = whole_number(seed or "0")
    if seed_number is None or (colon and not seed):
        raise UserError(
            f"priors.tree: 'random:{argument}' has no number as its seed: write 'random:{like}:7'"
        )
    check_most("priors.tree: the seed of 'random'", seed_number, _MOST_SEED)
    name = f"random:{argument}"
    if temporal:
        prior = load_temporal(like, data, horizon)
        return _dealt_offsets(name, prior, horizon, seed_number)

    groups = how_many("random", like, data)
    names = [f"random {number + 1}" for number in range(groups)]
    if whole_number(like) is not None:
        rows = np.arange(data.items)
        drawn = draw(rows, seed_number, groups)
        return ItemPrior(name, names, rows, drawn, data.items, kind="random")

    # Users and items that were appended later are permuted separately (see `deal`).
    entity, group = labels_like(like, data)
    if prior_of_data(like, data, *LIKE).kind == "user":
        states = [*(int(state["users"]) for state in data.manifest.grown), data.users]
        users = deal(states, seed_number)[entity]
        of_users = UserPrior(name, names, users, group, data.users)
        of_users.kind = "random"
        return of_users
    states = [*(int(state["items"]) for state in data.manifest.grown), data.items]
    items = deal(states, seed_number)[entity]
    return ItemPrior(name, names, items, group, data.items, kind="random")


def how_many(control: str, like: str, data: PreparedData) -> int:
    """Returns the number of groups of a control.

    Args:
        control: the kind of the control, for messages.
        like: the number of groups, or the name of a prior of the data set with that many groups.
        data: the prepared data set.

    Raises:
        UserError: `like` is empty, 0, too large, or not the name of a prior that labels items or
            users.
    """
    number = whole_number(like)
    if number:
        check_most(f"priors.tree: groups of '{control}'", number, MOST_GROUPS)
        return number
    if not like or number == 0:
        raise UserError(
            f"priors.tree: '{control}:{like}' needs a number of groups or a prior:"
            f" write '{control}:8'"
        )
    return len(prior_of_data(like, data, *LIKE).groups)


def labels_like(like: str, data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (row id or user's number, group) pairs of a prior of the data set."""
    if prior_of_data(like, data, *LIKE).kind == "user":
        return data.user_pairs(like)
    return data.prior_pairs(like, "item")


def deal(states: list[int], seed: int) -> np.ndarray:
    """Returns a random permutation of row ids, or of users' numbers.

    It depends only on the seed and on `states`, not on the order of calls.

    Args:
        states: the numbers of rows that the data set had before each append, then its present
            number. Rows that were added together are permuted among themselves. So the groups of
            earlier rows stay as they were when a model learned them.
        seed: the seed of the permutation.

    >>> deal([6], 0)[:4].tolist() == deal([4, 6], 0)[:4].tolist()
    False
    >>> deal([4], 0).tolist() == deal([4, 6], 0)[:4].tolist()
    True
    """
    key = _bits(np.arange(states[-1]), seed)
    parts = [
        low + np.argsort(key[low:high], kind="stable")
        for low, high in itertools.pairwise([0, *states])
    ]
    return np.concatenate(parts)


def draw(rows: np.ndarray, seed: int, groups: int) -> np.ndarray:
    """Draws a group number for each row, uniformly.

    Each number depends only on the seed and the row id (splitmix64), not on the other rows.

    >>> one_by_one = [int(draw(np.array([row]), 0, 4)[0]) for row in range(6)]
    >>> draw(np.arange(6), 0, 4).tolist() == one_by_one
    True
    """
    drawn: np.ndarray = (unit(_bits(rows, seed)) * groups).astype(np.int64)
    return drawn


def _bits(rows: np.ndarray, seed: int) -> np.ndarray:
    """Returns 64 random bits for each row, as uint64; they depend only on the seed and the row."""
    state = np.zeros(len(rows), np.uint64)
    for value in (np.full(len(rows), seed, np.uint64), rows.astype(np.uint64)):
        state = mix((state ^ value) + GOLDEN)
    return state


def _dealt_offsets(name: str, prior: TemporalPrior, horizon: int, seed: int) -> TemporalPrior:
    """Deals the offsets to segments, so that a segment says nothing about how soon a target is.

    A random permutation would not do: of eight offsets it often leaves most segments as they were.
    So offsets are dealt in pairs, the first with the last, the second with the last but one. Then
    all segments have the same mean. Segments of odd length also get one of the middle offsets each.

    Raises:
        UserError: each segment has one offset, so the control would be the prior itself.
    """
    segments = len(prior.groups)
    if prior.length == 1:
        raise UserError(
            f"priors.tree: '{name}' has one offset in each segment, and so would be the prior that "
            "it controls: give it fewer segments, or a longer model.horizon"
        )
    prior.name = name
    prior.kind = "random"
    prior.groups = [f"random {number + 1}" for number in range(segments)]

    each = prior.length // 2
    pairs = segments * each
    segment_t = np.empty(horizon, np.int64)
    segment_t[:pairs] = deal([pairs], seed) // each
    segment_t[horizon - pairs :] = segment_t[:pairs][::-1]
    if prior.length % 2:
        segment_t[pairs : horizon - pairs] = deal([segments], seed)
    prior.segment_t = torch.from_numpy(segment_t)
    return prior
