"""What a prior is, and how a specification such as "temporal:4" or "genre" becomes one.

A kind of prior is one file that defines `load(argument, data, horizon)`. A specification is "kind:argument", where the
kind is a file of this folder or the path of a user's own ("my_prior.py:argument"), or the name of a prior of the
prepared data set, whose kind the manifest tells.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.data.labels import compress
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.plugin import known_files, load_file, own_file


@dataclass(frozen=True)
class Targets:
    """Future interactions to be predicted, M of them.

    Attributes:
        item_M: int64 row ids.
        offset_M: int64, 1-based distance from the position that predicts, up to the horizon.
    """

    item_M: Tensor
    offset_M: Tensor


class ItemGroups(nn.Module):
    """Groups of items (see `compress`), on the model's device.

    Example:
        >>> labels = ItemGroups.from_pairs(np.array([0, 0, 2]), np.array([1, 0, 1]), items=3)
        >>> rows, groups = labels.expand(torch.tensor([2, 0]))
        >>> rows.tolist(), groups.tolist()
        ([0, 1, 1], [1, 0, 1])
    """

    starts: Tensor
    groups: Tensor

    def __init__(self, starts: Tensor, groups: Tensor) -> None:
        super().__init__()
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("groups", groups, persistent=False)

    @classmethod
    def from_pairs(cls, item: np.ndarray, group: np.ndarray, items: int) -> "ItemGroups":
        """From (item, group) pairs in any order."""
        starts, groups = compress(item, group, items)
        return cls(torch.from_numpy(starts), torch.from_numpy(groups))

    def expand(self, item_M: Tensor) -> tuple[Tensor, Tensor]:
        """(index into item_M, group) for every group of every item, in the order of item_M."""
        first_M = self.starts[item_M]
        count_M = self.starts[item_M + 1] - first_M
        row = torch.repeat_interleave(torch.arange(len(item_M), device=item_M.device), count_M)
        within = torch.arange(len(row), device=item_M.device) - (torch.cumsum(count_M, 0) - count_M)[row]
        return row, self.groups[first_M[row] + within]


class Prior(Protocol):
    """One level of a prior tree.

    Attributes:
        name: for messages and explanations.
        groups: human-readable names, by group number.
        restricts_items: whether Omega_k differs from all items.
    """

    name: str
    groups: list[str]
    restricts_items: bool

    def members(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """(index into targets, group) for every group a target belongs to (Eq. 6), in the order of targets."""
        ...

    def eligible(self, first_row: int, last_row: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, group) for the items of [first_row, last_row) that a group may retrieve (Omega_k, Eq. 3).

        Asked only where `restricts_items`.
        """
        ...


def load_prior(specification: str, data: PreparedData, horizon: int) -> Prior:
    """The prior of a specification.

    Args:
        specification: "kind:argument", "file.py:argument" or the name of a prior of the data set.
        data: the prepared data set.
        horizon: training's tau.

    Raises:
        UserError: no such kind, no such prior in the data set, or a wrong argument.
    """
    own = own_file(specification)
    if own is not None:
        module = load_file(own, option="priors.tree", function="load", arguments=("argument", "data", "horizon"))
        prior: Prior = module.load(specification[len(str(own)) + 1 :], data, horizon)
        if not hasattr(prior, "groups"):
            raise UserError(f"priors.tree: `load` of '{own}' must return a prior, not {type(prior).__name__}")
        return prior
    kind, colon, argument = specification.partition(":")
    known = known_files(Path(__file__).parent)
    names = {prior.name: prior.kind for prior in data.manifest.priors}
    if not colon and kind not in known and kind in names:
        kind, argument = names[kind], kind
    if kind not in known:
        usable = ["temporal:n", *(name for name, its_kind in names.items() if its_kind in known)]
        if specification in names:
            of = names[specification]
            raise UserError(f"priors.tree: '{specification}' is a prior of {of}s, which is no level: {_list(usable)}")
        if kind in names:
            raise UserError(f"priors.tree: '{kind}' takes no argument: write '{kind}'")
        if Path(f"{kind}.py").is_file():
            raise UserError(f"priors.tree: there is no prior '{kind}': for your file write '{kind}.py:{argument}'")
        raise UserError(f"priors.tree: there is no prior '{specification}': {nearest(kind, usable)}")
    prior = importlib.import_module(f"{__package__}.{kind}").load(argument, data, horizon)
    return prior


def _list(names: list[str]) -> str:
    return f"valid: {', '.join(names) or 'none'}"
