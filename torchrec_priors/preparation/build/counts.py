"""What a preparation dropped and repaired, as the manifest and people read it."""

from collections.abc import Mapping
from typing import Any

from torchrec_priors.preparation.build.long_histories import accounts
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus

Counts = dict[str, int]


def left_out(split: Split, read: Mapping[str, int]) -> Counts:
    """Users left out, their interactions, and duplicates.

    Args:
        read: as `Bucketed`.
    """
    short = read["short_users"]
    theirs = read["short_interactions"]
    found = {
        split.left_out: read["users"] - read["kept_users"] - short,
        "their interactions": read["interactions"] - read["kept_interactions"] - theirs,
    }
    if read["duplicates"]:
        found["duplicate interactions"] = read["duplicates"]
    return (
        {**found, **dict(zip(accounts(split.least), (short, theirs), strict=True))}
        if short
        else found
    )


def repaired(corpus: Corpus, read: Mapping[str, int]) -> Counts:
    return {"interactions out of order in time": read["late"] if corpus.has_times else 0}


def added(
    counts: Mapping[str, int], more: Mapping[str, int], less: Mapping[str, int] | None = None
) -> Counts:
    """`counts` with `more` and without `less`; what comes to nothing by that, and is not in `more`, is left out.

    >>> added({"a": 1, "b": 3}, {"a": 2}, {"b": 3})
    {'a': 3}
    """
    less = less or {}
    names = {**counts, **more, **less}
    found = {name: counts.get(name, 0) + more.get(name, 0) - less.get(name, 0) for name in names}
    return {
        name: number for name, number in found.items() if number or name in more or name not in less
    }


def users_left_out(counts: Mapping[str, Any]) -> int:
    """How many users of the raw files a data set lacks, by the counts of its manifest."""
    return sum(
        number for reason, number in counts["dropped"].items() if reason.startswith("users ")
    )
