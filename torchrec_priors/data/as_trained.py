"""A data set that has grown, with only the groups that it had when a run was trained on it.

Row ids and group numbers stay when a data set grows; new ones come after them. A model has no heads
for new groups.
"""

from dataclasses import replace

import numpy as np

from torchrec_priors.prepared.data_set import PreparedData


class AsTrained(PreparedData):
    """The same data set without the new groups, and without the pairs that name them."""

    def __init__(self, data: PreparedData, groups: dict[str, int]) -> None:
        """
        Args:
            groups: number of groups that each prior had; priors that are not named are new, and are
                left unchanged.
        """
        # The opened files are shared: nothing is read again.
        self.__dict__.update(data.__dict__)
        self._known = groups

        # `get` gives None for a new prior, and a slice to None keeps all of its groups.
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
        """The pairs of `PreparedData.prior_pairs` without those of new groups."""
        entities, group = super().prior_pairs(name, entity)
        known = group < self._known.get(name.removesuffix(".eligible"), np.iinfo(group.dtype).max)
        return entities[known], group[known]

    def user_pairs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of `PreparedData.user_pairs` without those of new groups.

        Users that are only in new groups may use the heads of all groups, as unknown users may.
        """
        user, group = super().user_pairs(name)
        groups = self._known.get(name)
        if groups is None:
            return user, group

        # `others` have no group left: they get one pair with each of the known groups.
        known = group < groups
        others = np.setdiff1d(user[~known], user[known])
        all_groups = np.tile(np.arange(groups, dtype=group.dtype), len(others))

        users = np.append(user[known], np.repeat(others, groups))
        return users, np.append(group[known], all_groups)
