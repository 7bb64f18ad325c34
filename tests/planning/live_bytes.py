"""Bytes of tensors that live, counted exactly: every storage that an operation makes, until it is freed."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within it, `live` is what was made since it was entered and still lives, `peak` the most that lived at once."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known = set()

    def know(self, tensors):
        """Does not count these."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.know(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage):
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key, size):
        self._known.discard(key)
        self.live -= size
