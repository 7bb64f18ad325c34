"""User priors: a target belongs to the groups of its user.

A group may retrieve all items (Omega_k), but only for its own users.
"""

import numpy as np
from torch import Tensor, nn

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import prior_of_data
from torchrec_priors.priors.prior import Memberships, Targets


class UserPrior(nn.Module):
    """A prior whose groups are groups of users, such as an age or a community.

    A user may be in several groups.

    A copy of a data set without its users has none in any group. The groups and the bounds are then
    those that the manifest has.

    Attributes:
        with_users: bool for each group, whether it has any users.
        of_users: the groups of each user.
        most_groups: the largest number of groups that one user is in.
    """

    kind = "user"
    restricts_items = False
    needs = ("users",)

    def __init__(
        self,
        name: str,
        groups: list[str],
        user: np.ndarray,
        group: np.ndarray,
        users: int,
        words: str = "",
        *,
        with_users: np.ndarray | None = None,
        most_groups: int = 0,
    ) -> None:
        """
        Args:
            groups: names of the groups, in the order of their numbers.
            user, group: pairs of a user's number in file order and a group number.
            users: the number of users.
            words: what a group is called in reasons for people (see `Prior`).
            with_users, most_groups: the attributes, if the pairs are absent.

        Raises:
            UserError: a user is in no group.
        """
        super().__init__()
        self.name = name
        self.groups = groups
        self.words = words
        if with_users is None:
            with_users = np.isin(np.arange(len(groups)), group)
        self.with_users = with_users
        self.of_users = Memberships.from_pairs(user, group, users)
        counts = self.of_users.starts.diff()
        self.most_groups = int(counts.max()) if len(counts) else most_groups

        without = int((counts == 0).sum())
        if without:
            raise UserError(
                f"prior '{name}': {without:,} of {users:,} users are in no group:"
                " put them into a group of their own"
            )

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        assert targets.user_M is not None, f"prior '{self.name}' needs users"
        return self.of_users.expand(targets.user_M)

    def padded_members(self, targets: Targets) -> Tensor:
        assert targets.user_M is not None, f"prior '{self.name}' needs users"
        return self.of_users.padded(targets.user_M)

    def groups_of_users(self, user_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.of_users.expand(user_B)

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("a user prior restricts no items")


def load(argument: str, data: PreparedData, horizon: int) -> UserPrior:
    """Loads a user prior of the data set; `argument` is its name."""
    info = prior_of_data(argument, data, "user")
    with_users = None
    if info.path in data.manifest.absent:
        with_users = np.array(info.sizes) > 0
        pairs = np.zeros(0, np.int64), np.zeros(0, np.int64)
    else:
        pairs = data.user_pairs(argument)
    return UserPrior(
        argument,
        info.groups,
        *pairs,
        data.users,
        info.words,
        with_users=with_users,
        most_groups=data.manifest.most_groups.get(argument, 0),
    )
