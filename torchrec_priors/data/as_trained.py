"""A view of a data set that has grown, with only the groups that a trained model has heads for.

When a data set grows, old items and groups keep their numbers, and new ones get the next numbers.
A model that was trained before has no heads for the new groups.
"""

from dataclasses import replace

import numpy as np

from torchrec_priors.prepared.data_set import PreparedData


class AsTrained(PreparedData):
    """A data set without its new groups, and without the pairs that belong to them."""

    def __init__(self, data: PreparedData, groups: dict[str, int]) -> None:
        """
        Args:
            data: the data set.
            groups: the number of groups that each prior had in training, by name. A prior that is
                not in it is new, and keeps all its groups.
        """
        # All attributes are shared with `data`, so no file is opened or read again.
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
        """Returns the pairs of `PreparedData.prior_pairs`, without those of new groups."""
        entities, group = super().prior_pairs(name, entity)
        known = group < self._known.get(name.removesuffix(".eligible"), np.iinfo(group.dtype).max)
        return entities[known], group[known]

    def user_pairs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pairs of `PreparedData.user_pairs`, without those of new groups.

        Like an unknown user, a user who is only in new groups may use the heads of all groups.
        """
        user, group = super().user_pairs(name)
        groups = self._known.get(name)
        if groups is None:
            return user, group

        # Users without a known group get one pair with each of the known groups.
        known = group < groups
        only_in_new = np.setdiff1d(user[~known], user[known])
        all_groups = np.tile(np.arange(groups, dtype=group.dtype), len(only_in_new))

        users = np.append(user[known], np.repeat(only_in_new, groups))
        return users, np.append(group[known], all_groups)
