"""The paths of a prior tree that are open to each user: those of the user's own groups.

A level of users is a level whose groups are groups of users. A path or group is open to a user if
it may be used for this user.

Shapes: K paths, B users, G groups of a level, X users or events.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torchrec_priors.priors.prior import Prior

# The user groups given in requests, by the index of their level in the tree: bool [B, G].
GivenGroups = Mapping[int, Tensor]


class PathsOfUsers(nn.Module):
    """The paths that go through groups of users, for each level of users."""

    def __init__(
        self, levels: Mapping[int, Prior], group_of_path: Mapping[int, Tensor], paths: int
    ) -> None:
        """
        Args:
            levels: the levels of users, by their index in the tree, which holds them as modules.
            group_of_path: for each of these levels, int64 [K], the group of each path; -1 for a
                path that does not go through the level.
            paths: K.
        """
        super().__init__()
        self._levels = dict(levels)
        self._paths = paths
        for number, level in levels.items():
            group_K = group_of_path[number]
            has_head_G = torch.isin(torch.arange(len(level.groups)), group_K)
            self.register_buffer(f"group_at_{number}", group_K, persistent=False)
            self.register_buffer(f"has_head_{number}", has_head_G, persistent=False)

    def allowed(self, user_B: Tensor, given: GivenGroups | None = None) -> Tensor | None:
        """Finds the paths that are open to each user.

        Args:
            user_B: the users, as indices in the file order of the data set; -1 for an unknown user,
                to whom all paths are open.
            given: groups of users that replace those of the data set, by the index of the level:
                bool [B, G]. A row without a group replaces nothing.

        Returns:
            bool [B, K]; None if the tree has no level of users, so that all paths are open to every
            user.
        """
        allowed_BK: Tensor | None = None
        for number in self._levels:
            group_K = self.get_buffer(f"group_at_{number}")
            open_BK = paths_of_groups(self._open_to(number, user_B, given), group_K)
            allowed_BK = open_BK if allowed_BK is None else allowed_BK & open_BK
        return allowed_BK

    def open_groups(self, user_B: Tensor, given: GivenGroups | None = None) -> Tensor:
        """Counts the open paths that differ from a path at most in groups of users.

        For each user and path, these are the path itself, if it is open, and the paths that go
        through the same groups on all levels except levels of users. A user may be in several
        groups of a level of users. The heads of all of them estimate the same probability, so the
        sum of the estimates is divided by this count to get a mean. (If the path goes through
        several levels of users, combinations of groups are counted.)

        Args:
            user_B, given: the users, as for `allowed`.

        Returns:
            int64 [B, K]; 1 for a path that goes through no level of users.
        """
        count_BK = torch.ones(len(user_B), self._paths, dtype=torch.int64, device=user_B.device)
        for number in self._levels:
            open_B = self._open_to(number, user_B, given).sum(1).clamp(min=1)
            through_K = self.get_buffer(f"group_at_{number}") >= 0
            count_BK *= torch.where(through_K, open_B[:, None], 1)
        return count_BK

    def _open_to(self, number: int, user_B: Tensor, given: GivenGroups | None) -> Tensor:
        """Returns bool [B, G]: whether a group has a head and is open to the user.

        The user's own groups are open. If none of them has a head, because no training user was in
        them, all groups with a head are open. For an unknown user, all groups with a head are open.

        Args:
            number: the index of a level of users.
            user_B, given: the users, as for `allowed`.
        """
        level = self._levels[number]
        has_head_G = self.get_buffer(f"has_head_{number}")

        known_B = torch.nonzero(user_B >= 0).squeeze(1)
        index, group = level.groups_of_users(user_B[known_B])  # type: ignore[attr-defined]
        open_BG = (user_B < 0)[:, None].repeat(1, len(level.groups))
        open_BG[known_B[index], group] = True
        if given is not None and number in given:
            given_BG = given[number]
            open_BG = torch.where(given_BG.any(1, keepdim=True), given_BG, open_BG)
        open_BG &= has_head_G

        has_no_head_B = ~open_BG.any(1)
        return open_BG | (has_no_head_B[:, None] & has_head_G)


def paths_of_groups(open_XG: Tensor, group_K: Tensor) -> Tensor:
    """Returns bool [X, K]: whether a path is open, given the open groups of one level.

    A path that does not go through the level is always open.

    Args:
        open_XG: bool, for X users or events: whether each group of the level is open.
        group_K: the group of each path at the level; -1 if the path does not go through it.
    """
    # Index -1 selects the last column, so a column of True is put there.
    always = open_XG.new_ones(len(open_XG), 1)
    return torch.cat([open_XG, always], 1)[:, group_K]
