"""A data set that has grown, as a run sees it that was trained on an earlier state: with the groups that it had then.

Row ids and group numbers stay when a data set grows, new ones come after. A model has no heads for new groups.
"""

from dataclasses import replace

import numpy as np

from torchrec_priors.prepared.data_set import PreparedData


class AsTrained(PreparedData):
    """The same data set without the groups that are new, and the pairs that name them."""

    def __init__(self, data: PreparedData, groups: dict[str, int]) -> None:
        """
        Args:
            groups: how many each prior had; those that are not named are new, and left as they are.
        """
        self.__dict__.update(data.__dict__)
        self._known = groups
        priors = [
            replace(
                prior,
                groups=prior.groups[: groups.get(prior.name)],
                sizes=prior.sizes[: groups.get(prior.name)],
            )
            for prior in data.manifest.priors
        ]
        self.manifest = replace(data.manifest, priors=priors)

    def prior_pairs(self, name: str, entity: str) -> tuple[np.ndarray, np.ndarray]:
        of, group = super().prior_pairs(name, entity)
        known = group < self._known.get(name.removesuffix(".eligible"), np.iinfo(group.dtype).max)
        return of[known], group[known]

    def user_pairs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Users of new groups alone may use the heads of all, as users who are not known may."""
        user, group = super().user_pairs(name)
        groups = self._known.get(name)
        if groups is None:
            return user, group
        known = group < groups
        others = np.setdiff1d(user[~known], user[known])
        everywhere = np.tile(np.arange(groups, dtype=group.dtype), len(others))
        return np.append(user[known], np.repeat(others, groups)), np.append(
            group[known], everywhere
        )
