"""Names of communities that say what is in them."""

import numpy as np

from torchrec_priors.preparation.priors.communities.search import OTHERS

_AT_MOST = 2
_NEARLY = 0.5  # a second category is named if it tells at least so much as the first


def named_by_category(
    community_P: np.ndarray, category_P: np.ndarray, categories: list[str]
) -> dict[int, str]:
    """Community -> the one or two categories that tell most about it, such as "Drama, War"; "" where none does.

    A category tells p log(p / q), with p its share of the community's labels and q its share of all labels: it has to
    be frequent there, and more so than elsewhere.

    Args:
        community_P: community of each (item, category) pair; OTHERS count among all labels.
        category_P: number of its category.
    """
    all_labels = np.bincount(category_P, minlength=len(categories))
    q = all_labels / max(1, all_labels.sum())
    names = {}
    for community in np.unique(community_P[community_P != OTHERS]).tolist():
        counts = np.bincount(category_P[community_P == community], minlength=len(categories))
        p = counts / counts.sum()
        there = np.flatnonzero(p > q)
        tells = p[there] * np.log(p[there] / q[there])
        best = np.argsort(-tells, kind="stable")[:_AT_MOST]
        names[community] = ", ".join(
            categories[there[i]] for i in best if tells[i] >= _NEARLY * tells[best[0]]
        )
    return names
