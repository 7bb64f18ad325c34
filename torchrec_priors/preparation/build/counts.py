"""Counts the rows that a preparation dropped and repaired, as the manifest records them."""

from collections.abc import Mapping
from typing import Any

from torchrec_priors.preparation.build.long_histories import accounts
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus

Counts = dict[str, int]


def left_out(split: Split, read: Mapping[str, int]) -> Counts:
    """Counts the users who were left out, their interactions, and duplicates, by reason.

    Args:
        read: the numbers in `Bucketed.read`.
    """
    # Users with fewer interactions than the corpus requires are counted below, not as users that
    # the split leaves out.
    short_users = read["short_users"]
    short_interactions = read["short_interactions"]
    counts = {
        split.left_out: read["users"] - read["kept_users"] - short_users,
        "their interactions": read["interactions"] - read["kept_interactions"] - short_interactions,
    }

    # The manifest lists these reasons only if the counts are not 0.
    if read["duplicates"]:
        counts["duplicate interactions"] = read["duplicates"]
    if short_users:
        users_account, interactions_account = accounts(split.least)
        counts[users_account] = short_users
        counts[interactions_account] = short_interactions
    return counts


def repaired(corpus: Corpus, read: Mapping[str, int]) -> Counts:
    """Counts the interactions that were out of order in time; 0 for a corpus without times."""
    return {"interactions out of order in time": read["late"] if corpus.has_times else 0}


def added(
    counts: Mapping[str, int], more: Mapping[str, int], less: Mapping[str, int] | None = None
) -> Counts:
    """Returns `counts` plus `more` minus `less`.

    A count that is in `less`, but not in `more`, is left out if it becomes 0.

    >>> added({"a": 1, "b": 3}, {"a": 2}, {"b": 3})
    {'a': 3}
    """
    less = less or {}
    sums: Counts = {}
    for name in {**counts, **more, **less}:
        number = counts.get(name, 0) + more.get(name, 0) - less.get(name, 0)
        if number or name in more or name not in less:
            sums[name] = number
    return sums


def users_left_out(counts: Mapping[str, Any]) -> int:
    """Returns the number of users that a data set left out, from the counts of its manifest."""
    # All reasons that count users begin with the word "users"; see `Split.left_out` and `accounts`.
    return sum(
        number for reason, number in counts["dropped"].items() if reason.startswith("users ")
    )
