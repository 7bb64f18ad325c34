"""Counts the training positives of every prior path, and records them in a run's `paths.json`.

The counts decide which heads exist and how the loss weights them. Training counts once, before it
builds the heads. Commands that load the run read the counts from the file, so they need not read
the whole data set.

Shapes: K prior paths, T offsets of the horizon, S item sets, M targets, U users.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.heads.nodes import Depth, backed_off
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.share import Share


@dataclass(frozen=True)
class Counted:
    """The numbers of positives and targets in an epoch of training.

    Attributes:
        positives_K: int64, the number of positives of each path.
        targets: the number of targets, at all offsets together.
        by_offset: the numbers of positives [K, T] and of targets [T] for each offset, int64; None
            if an earlier version of this project recorded the run.
    """

    positives_K: Tensor
    targets: int
    by_offset: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, counts: Tensor) -> "Counted":
        """Creates the counts from the tensor that `count_positives` returns."""
        positives_KT = counts[:-1]
        targets_T = counts[-1]
        return cls(positives_KT.sum(1), int(targets_T.sum()), (positives_KT, targets_T))


def count_positives(
    tree: PriorTree,
    data: PreparedData,
    horizon: int,
    share: Share,
    training_end_U: np.ndarray,
    *,
    has_row_I: np.ndarray | None = None,
) -> Tensor:
    """Counts the positives of each path, and the targets, over this rank's share of an epoch.

    The item at index i of a history is a target at every offset t <= i, if it is in the training
    part of the history. How histories are cut into windows does not matter. Items without a row are
    treated as if they were not in the history.

    Args:
        training_end_U: the number of items in the training part of each user's history.
        has_row_I: bool, whether each item has a row of the table; None if all items have one.

    Returns:
        int64 [K + 1, T]: for each offset the number of positives of each path, and in the last row
        the number of targets.
    """
    paths = len(tree.item_set_K)
    counts = torch.zeros(paths + 1, horizon, dtype=torch.int64)
    columns = [column for column in tree.needs if column == "events"]

    # The data set may be larger than memory, so it is read one row group at a time.
    for group in data.row_groups[share.rank :: share.world]:
        users = data.read_users(group, columns)

        # Three arrays with one entry for each item of the row group: the item's user, its index in
        # the user's history, and whether it is trained on.
        owner = group.first_user + np.repeat(np.arange(len(users.lengths)), users.lengths)
        index = np.arange(len(users.items)) - np.repeat(users.starts[:-1], users.lengths)
        ends = training_end_U[group.first_user : group.first_user + group.users]
        trained = index < np.repeat(ends, users.lengths)

        # If items without a row are left out, the index of an item is the number of earlier items
        # of the history that have a row.
        if has_row_I is not None:
            trained &= has_row_I[users.items]
            before = np.concatenate([[0], np.cumsum(trained)])
            index = before[:-1] - np.repeat(before[users.starts[:-1]], users.lengths)

        for offset in range(1, horizon + 1):
            chosen = trained & (index >= offset)
            items, user_M, *event = (
                torch.from_numpy(values[chosen]).to(tree.device)
                for values in (users.items, owner, *users.columns.values())
            )
            # The columns contain event codes only if a prior needs them.
            event_M = event[0] if event else None
            targets = Targets(items, torch.full_like(items, offset), event_M, user_M)

            path = tree.assign(targets)[1].cpu()
            counts[:paths, offset - 1] += torch.bincount(path, minlength=paths)
            counts[paths, offset - 1] += len(items)
    return counts


def over_item_sets(tree: PriorTree, positives_K: Tensor) -> Tensor:
    """Returns the number of positives of each item set, int64 [S], summed over its paths."""
    positives_S = torch.zeros(tree.item_sets, dtype=torch.int64)
    return positives_S.index_add_(0, torch.tensor(tree.item_set_K), positives_K)


def write_paths(file: Path, tree: PriorTree, counted: Counted, depths: list[Depth] | None) -> None:
    """Records the number of training targets, and the name and training positives of each path.

    If a path has no adapter of its own, the file also names the node whose query the path uses.

    Args:
        depths: the nodes with adapters, for each depth; None for a baseline, which has no nodes.
    """
    assert counted.by_offset is not None
    positives_KT, targets_T = counted.by_offset
    nodes_K = [None] * len(tree.paths) if depths is None else backed_off(tree, depths)

    paths = []
    for path, positives_T, node in zip(tree.paths, positives_KT.tolist(), nodes_K, strict=True):
        paths.append(
            {
                "name": path.name,
                "positives": sum(positives_T),
                "positives_by_offset": positives_T,
                "backed_off_to": node,
            }
        )
    values = {"targets": counted.targets, "targets_by_offset": targets_T.tolist(), "paths": paths}
    write_json(file, values)


def path_names(file: Path) -> list[str]:
    """Reads the names of the recorded paths, in their order.

    Raises:
        UserError: the file does not exist.
    """
    return [path["name"] for path in _read(file)["paths"]]


def read_paths(file: Path, tree: PriorTree) -> Counted:
    """Reads the recorded training positives and targets.

    Raises:
        UserError: the file does not exist, or its paths are not those of the tree.
    """
    recorded = _read(file)
    if [path["name"] for path in recorded["paths"]] != [path.name for path in tree.paths]:
        raise UserError(
            f"{file} lists other prior paths than the run's data and configuration give: "
            "train again"
        )

    # A file of an earlier version has no checksum. If it is damaged, its values may have any type.
    try:
        positives_K = torch.tensor([int(path["positives"]) for path in recorded["paths"]])
        by_offset = None
        if "targets_by_offset" in recorded:
            positives_KT = torch.tensor([path["positives_by_offset"] for path in recorded["paths"]])
            by_offset = (positives_KT, torch.tensor(recorded["targets_by_offset"]))
        return Counted(positives_K, int(recorded["targets"]), by_offset)
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise _unreadable(file, error) from error


def _read(file: Path) -> dict[str, Any]:
    """Reads the file and checks that each of its paths has a name."""
    recorded = read_json(file, remedy="put it back, or train again")
    try:
        for path in recorded["paths"]:
            path["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from error
    return recorded


def _unreadable(file: Path, error: Exception) -> UserError:
    """Creates the error for a file with missing or wrong values."""
    return UserError(
        f"'{file}' is not what train writes ({type(error).__name__}: {error}): train again"
    )
