"""The levers of requests, prepared for a run: what their names mean is found out once.

Shapes: K heads (paths, then the repeat head if there is one), I items of the catalogue.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.item_filter import ItemFilter, bits_of
from torchrec_priors.serving.head_names import HeadNames
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.shares import Shares

_KEPT = 512  # different levers that stay prepared


@dataclass(frozen=True)
class PreparedLevers:
    """Levers, and what they mean for a run.

    Attributes:
        bias_K: added to the scores of each head; -inf if the head may not be used. None if nothing
            is added.
        reach: the bits of this rank's items that the heads may retrieve; None for all heads.
        with_repeats: whether the repeat head may answer.
        groups: for each group with a share, the bits of this rank's items that it contains.
    """

    bias_K: Tensor | None
    reach: np.ndarray | None
    with_repeats: bool
    groups: dict[str, np.ndarray]


class LeversOfRun:
    """Prepares levers. Any thread may call it.

    Attributes:
        names: the names of the heads.
    """

    def __init__(self, finder: Finder, items: int, total: Callable[[Tensor], Tensor]) -> None:
        """
        Args:
            finder: the finder of the run.
            items: I.
            total: sums a tensor over ranks.
        """
        repeats = finder.model.repeat_head is not None
        self.names = HeadNames(finder.model.tree, repeats=repeats)
        self._finder = finder
        self._items = items
        self._total = total
        self._paths = len(finder.model.tree.item_set_K)
        self._kept: OrderedDict[Hashable, PreparedLevers] = OrderedDict()
        self._lock = Lock()
        self._everything = bits_of(finder.index.item_C.cpu().numpy(), items)
        self._without = self._prepare(Levers())

    def prepare(self, levers: Levers) -> PreparedLevers:
        """Finds out what the names of levers mean.

        Raises:
            UserError: a lever names no head, or the levers leave no head.
        """
        if levers.is_empty:
            return self._without
        key = levers.key
        with self._lock:
            prepared = self._kept.get(key)
            if prepared is not None:
                self._kept.move_to_end(key)
                return prepared

        prepared = self._prepare(levers)
        with self._lock:
            self._kept[key] = prepared
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return prepared

    def check(self, prepared: PreparedLevers, item_filter: ItemFilter | None) -> None:
        """Raises UserError if the heads that are left retrieve none of the allowed items.

        Every rank must call it, for the same levers.
        """
        # What the repeat head retrieves depends on the history.
        if prepared.reach is None or prepared.with_repeats:
            return
        left = _within(prepared.reach, item_filter)
        if not int(self._total(torch.tensor(int(left.any())))):
            raise UserError(
                "only, mute: the heads that may answer retrieve none of the items that are "
                "allowed: allow more items, or name other heads"
            )

    def shares(
        self, levers: Levers, prepared: PreparedLevers, k: int, item_filter: ItemFilter | None
    ) -> Shares | None:
        """Returns the shares of a request; None if it has none. Every rank must call it.

        Raises:
            UserError: the shares need more than k items.
        """
        if not levers.at_least:
            return None
        candidates = _within(self._everything, item_filter)
        return Shares(dict(levers.at_least), prepared.groups, k, candidates, self._total)

    def _prepare(self, levers: Levers) -> PreparedLevers:
        if levers.at_least and self._finder.diversifier is not None:
            raise UserError(
                "at-least: this run diversifies its lists (evaluation.diversify), which "
                "cannot be combined with shares"
            )
        bias_K = levers.bias(self.names)
        path_K = levers.shares(self.names)
        reach = None
        with_repeats = False
        if bias_K is not None:
            is_used_K = ~torch.isneginf(bias_K)
            reach = self._reach(is_used_K[: self._paths])
            with_repeats = bool(is_used_K[self._paths :].any())
            bias_K = bias_K.to(self._finder.device)
        groups = {name: self._reach(paths) for name, paths in path_K.items()}
        return PreparedLevers(bias_K, reach, with_repeats, groups)

    def _reach(self, path_K: Tensor) -> np.ndarray:
        """Returns the bits of this rank's items that any of some paths may retrieve."""
        index = self._finder.index
        reached_C = index.reach(path_K).cpu().numpy()
        return bits_of(index.item_C.cpu().numpy()[reached_C], self._items)


def _within(bits: np.ndarray, item_filter: ItemFilter | None) -> np.ndarray:
    """Returns the bits of the items that a filter allows."""
    if item_filter is None:
        return bits
    if item_filter.allow is not None:
        bits = bits & item_filter.allow
    if item_filter.deny is not None:
        bits = bits & ~item_filter.deny
    return bits
