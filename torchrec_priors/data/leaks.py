"""Whether the targets of a split are among what weights were trained on."""

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
    """What of a split was trained on.

    Attributes:
        trained_U: int32, how many targets of each user of the data set were trained on.
        untold_U: bool, users with targets whose histories are others than those that were trained on, so that nobody
            can tell.
        has_U: bool, users with targets.
        targets: of them all.
    """

    trained_U: np.ndarray
    untold_U: np.ndarray
    has_U: np.ndarray
    targets: int

    @property
    def users(self) -> int:
        """With targets."""
        return int(self.has_U.sum())

    @property
    def leaked_users(self) -> int:
        return int((self.trained_U > 0).sum())

    @property
    def untold_users(self) -> int:
        return int(self.untold_U.sum())

    @property
    def clean_U(self) -> np.ndarray:
        """bool: users of whom no target was trained on."""
        clean: np.ndarray = (self.trained_U == 0) & ~self.untold_U
        return clean

    def to_metrics(self) -> dict[str, float]:
        """By the names of docs/metrics.md."""
        targets = int(self.trained_U.sum())
        return {
            "leaked/users": self.leaked_users,
            "leaked/targets": targets,
            "leaked/targets_share": targets / max(self.targets, 1),
            "leaked/untold_users": self.untold_users,
        }

    def in_words(self) -> str | None:
        """What is wrong with figures of the split; None where nothing is."""
        said = []
        if self.leaked_users:
            share = self.trained_U.sum() / max(self.targets, 1)
            of = f"{self.leaked_users:,} of {self.users:,} users"
            said.append(f"it was trained on targets of {of} ({share:.1%} of all targets)")
        if self.untold_users:
            of = f"{self.untold_users:,} of {self.users:,} users"
            said.append(
                f"it cannot be told for {of}, whose histories are not those that it was trained on"
            )
        return "; ".join(said) or None


def leaks(
    part: TrainedPart | None,
    data: PreparedData,
    split: Split,
    *,
    share: Share,
    total: Callable[[torch.Tensor], torch.Tensor],
) -> Leaks:
    """Compares what was trained on with a split, the same on every rank. Every rank must call it.

    Args:
        part: None where nobody knows.
        total: a tensor's sum over ranks.
    """
    start_U, end_U = target_bounds(data, split)
    has_U = users_of(data, split)
    targets = int((end_U - start_U)[has_U].sum())
    found_U2 = np.zeros((data.users, 2), np.int32)
    if part is None:
        found_U2[:, 1] = has_U
        return Leaks(found_U2[:, 0], found_U2[:, 1] > 0, has_U, targets)

    for pasts in pasts_of(data, share):
        _compare(pasts, part, start_U, end_U, has_U, found_U2)
    found_U2 = total(torch.from_numpy(found_U2)).numpy()
    untold_U = (found_U2[:, 1] > 0) & (found_U2[:, 0] == 0)
    return Leaks(found_U2[:, 0], untold_U, has_U, targets)


def _compare(
    pasts: Pasts,
    part: TrainedPart,
    start_U: np.ndarray,
    end_U: np.ndarray,
    has_U: np.ndarray,
    found_U2: np.ndarray,
) -> None:
    """Notes of each user of a row group how many targets were trained on, and whether that cannot be told."""
    place, of_part = pasts.met(part)
    user = place + pasts.first_user
    items = part.items_N[of_part].astype(np.int64)
    there = items <= pasts.lengths_U[place]
    same = there & (pasts.of_first(place, np.where(there, items, 0)) == part.history_N[of_part])

    trained = np.where(same & has_U[user], np.minimum(items, end_U[user]) - start_U[user], 0)
    np.maximum.at(found_U2[:, 0], user, np.maximum(trained, 0).astype(np.int32))
    np.maximum.at(found_U2[:, 1], user, (~same & has_U[user]).astype(np.int32))
