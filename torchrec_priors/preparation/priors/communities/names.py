"""Names communities by the categories of their items."""

import numpy as np

from torchrec_priors.preparation.priors.communities.search import OTHERS

_AT_MOST = 2
# A second category is named if its information is at least this share of the first one's.
_NEARLY = 0.5


def named_by_category(
    community_P: np.ndarray, category_P: np.ndarray, categories: list[str]
) -> dict[int, str]:
    """Returns for each community the one or two categories that characterise it.

    Such a name is "Drama, War", or "" if no category does. The information of a category is
    p log(p / q), with p its share of the community's labels and q its share of all labels: a
    category has to be frequent in the community, and more so than elsewhere.

    Args:
        community_P: Community of each (item, category) pair. OTHERS count among all labels.
        category_P: Number of its category.
        categories: Names of the categories.
    """
    # At least 1, as a data set may have no label at all.
    all_labels = np.bincount(category_P, minlength=len(categories))
    q = all_labels / max(1, all_labels.sum())

    names = {}
    for community in np.unique(community_P[community_P != OTHERS]).tolist():
        counts = np.bincount(category_P[community_P == community], minlength=len(categories))
        p = counts / counts.sum()

        # A category that is as frequent elsewhere says nothing about this community.
        frequent = np.flatnonzero(p > q)
        information = p[frequent] * np.log(p[frequent] / q[frequent])
        best = np.argsort(-information, kind="stable")[:_AT_MOST]
        # `best` is empty if all items are in this community, as then p = q.
        named = [i for i in best if information[i] >= _NEARLY * information[best[0]]]
        names[community] = ", ".join(categories[frequent[i]] for i in named)

    return names
