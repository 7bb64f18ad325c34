"""Names communities by the categories of their items."""

import numpy as np

from torchrec_priors.preparation.priors.communities.graph import OTHERS

# The maximum number of categories in a name.
_AT_MOST = 2
# A second category is named if its information is at least this share of the first category's.
_NEARLY = 0.5


def named_by_category(
    community_P: np.ndarray, category_P: np.ndarray, categories: list[str]
) -> dict[int, str]:
    """Names each community by the one or two categories that characterise it.

    A name is a text such as "Drama, War", or "" if no category characterises the community. The
    categories with the highest information p log(p / q) are chosen. Here p is the category's share
    of the labels in the community, and q is its share of all labels. A category is thus chosen if
    it is frequent in the community, and more frequent there than elsewhere.

    Args:
        community_P: the community of each of the P pairs of (item, category), int64 [P]. Pairs in
            OTHERS count only towards q.
        category_P: the index of the category of each pair, int64 [P].
        categories: the names of the categories.

    Returns:
        The name of each community, by its number.
    """
    # The divisor is at least 1, because a data set may have no label at all.
    all_labels = np.bincount(category_P, minlength=len(categories))
    q = all_labels / max(1, all_labels.sum())

    names = {}
    for community in np.unique(community_P[community_P != OTHERS]).tolist():
        counts = np.bincount(category_P[community_P == community], minlength=len(categories))
        p = counts / counts.sum()

        # A category that is not more frequent here than elsewhere does not characterise the
        # community.
        frequent = np.flatnonzero(p > q)
        information = p[frequent] * np.log(p[frequent] / q[frequent])
        best = np.argsort(-information, kind="stable")[:_AT_MOST]
        # `best` is empty if all items are in this community, because p is then equal to q.
        named = [i for i in best if information[i] >= _NEARLY * information[best[0]]]
        names[community] = ", ".join(categories[frequent[i]] for i in named)

    return names
