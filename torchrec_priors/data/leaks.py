"""Finds targets of a split that a model was trained on, which spoil its evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from torchrec_priors.data.histories import Split, target_bounds, users_of
from torchrec_priors.data.trained_part import Pasts, TrainedPart, pasts_of
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.share import Share


@dataclass(frozen=True)
class Leaks:
    """Counts of the targets of a split that a model was trained on.

    Attributes:
        trained_U: int32, for each user of the data set, the number of targets that the model was
            trained on.
        untold_U: bool, whether it is unknown if the model was trained on targets of the user. This
            is the case if the user's history differs from the one in training.
        has_U: bool, whether the user has targets.
        targets: the number of targets of all users.
    """

    trained_U: np.ndarray
    untold_U: np.ndarray
    has_U: np.ndarray
    targets: int

    @property
    def users(self) -> int:
        """The number of users with targets."""
        return int(self.has_U.sum())

    @property
    def leaked_users(self) -> int:
        """The number of users with a target that the model was trained on."""
        return int((self.trained_U > 0).sum())

    @property
    def untold_users(self) -> int:
        """The number of users for whom it is unknown if the model was trained on their targets."""
        return int(self.untold_U.sum())

    @property
    def clean_U(self) -> np.ndarray:
        """bool: whether the model was certainly not trained on a target of the user."""
        clean: np.ndarray = (self.trained_U == 0) & ~self.untold_U
        return clean

    def to_metrics(self) -> dict[str, float]:
        """Returns the metrics `leaked/...`, which docs/metrics.md describes."""
        targets = int(self.trained_U.sum())
        return {
            "leaked/users": self.leaked_users,
            "leaked/targets": targets,
            "leaked/targets_share": targets / max(self.targets, 1),
            "leaked/untold_users": self.untold_users,
        }

    def in_words(self) -> str | None:
        """Says why metrics of the split cannot be trusted; None if there is no reason."""
        messages = []
        if self.leaked_users:
            share = self.trained_U.sum() / max(self.targets, 1)
            users = f"{self.leaked_users:,} of {self.users:,} users"
            messages.append(f"it was trained on targets of {users} ({share:.1%} of all targets)")
        if self.untold_users:
            users = f"{self.untold_users:,} of {self.users:,} users"
            messages.append(
                f"for {users} it is unknown, as their histories differ from those it was trained on"
            )
        return "; ".join(messages) or None


def leaks(
    part: TrainedPart | None,
    data: PreparedData,
    split: Split,
    *,
    share: Share,
    total: Callable[[torch.Tensor], torch.Tensor],
) -> Leaks:
    """Compares the interactions that a model was trained on with the targets of a split.

    Every rank must call it. The result is the same on every rank.

    Args:
        part: the interactions that the model was trained on; None if they are unknown.
        data: the prepared data set.
        split: the split with the targets.
        share: this rank, and the number of ranks.
        total: sums a tensor over ranks.
    """
    start_U, end_U = target_bounds(data, split)
    has_U = users_of(data, split)
    targets = int((end_U - start_U)[has_U].sum())

    # For each user: how many targets the model was trained on, and whether the history differs.
    gathered_U2 = np.zeros((data.users, 2), np.int32)
    if part is None:
        gathered_U2[:, 1] = has_U
        return Leaks(gathered_U2[:, 0], gathered_U2[:, 1] > 0, has_U, targets)

    # Each rank fills in the users of its row groups; the sum over ranks has all users.
    for pasts in pasts_of(data, share):
        _compare(pasts, part, start_U, end_U, has_U, gathered_U2)
    gathered_U2 = total(torch.from_numpy(gathered_U2)).numpy()

    # Several parts may be recorded for a user. Targets in any of them have leaked, even if another
    # part differs from the history.
    untold_U = (gathered_U2[:, 1] > 0) & (gathered_U2[:, 0] == 0)
    return Leaks(gathered_U2[:, 0], untold_U, has_U, targets)


def _compare(
    pasts: Pasts,
    part: TrainedPart,
    start_U: np.ndarray,
    end_U: np.ndarray,
    has_U: np.ndarray,
    gathered_U2: np.ndarray,
) -> None:
    """Fills in `gathered_U2` for the users of a row group.

    Args:
        pasts: the users of the row group.
        part: the interactions that the model was trained on.
        start_U, end_U: where the targets of each user start and end in the history.
        has_U: whether a user has targets.
        gathered_U2: the number of targets that the model was trained on, and whether the history
            differs; it is changed in place.
    """
    index, index_in_part = pasts.matches(part)
    user = index + pasts.first_user
    items = part.items_N[index_in_part].astype(np.int64)

    # A history that is shorter than the recorded part cannot be the same.
    long_enough = items <= pasts.lengths_U[index]
    hashed = pasts.of_first(index, np.where(long_enough, items, 0))
    same = long_enough & (hashed == part.history_N[index_in_part])

    # A user may occur several times in `user`; `maximum.at` takes all of these values.
    trained = np.where(same & has_U[user], np.minimum(items, end_U[user]) - start_U[user], 0)
    np.maximum.at(gathered_U2[:, 0], user, np.maximum(trained, 0).astype(np.int32))
    np.maximum.at(gathered_U2[:, 1], user, (~same & has_U[user]).astype(np.int32))
