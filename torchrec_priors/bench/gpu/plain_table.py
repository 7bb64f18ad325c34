"""A table of items on one device, in place of TorchRec's sharded one.

As in TorchRec's fused optimizer, the backward pass changes the rows by row-wise Adagrad: the
gradients of an id that occurs several times are summed first. The host does not wait for the
device.

Shapes: n ids, R rows, d width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_EPS = 1e-8  # that of TorchRec's row-wise Adagrad


class PlainIds:
    """Ids of one feature, in place of TorchRec's `KeyedJaggedTensor`."""

    def __init__(self, keys: list[str], values: Tensor, lengths: Tensor) -> None:
        self._keys = keys
        self._values = values
        self._lengths = lengths

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> Tensor:
        return self._values

    def to(self, device: torch.device, non_blocking: bool = False) -> "PlainIds":
        """Copies the ids to a device."""
        return self._with(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PlainIds":
        """Copies the ids into pinned memory."""
        return self._with(lambda x: x.pin_memory())

    def _with(self, move: Callable[[Tensor], Tensor]) -> "PlainIds":
        return PlainIds(self._keys, move(self._values), move(self._lengths))


@dataclass(frozen=True)
class PlainVectors:
    """The answer for one feature, in place of TorchRec's `JaggedTensor`."""

    vectors_nd: Tensor

    def values(self) -> Tensor:
        return self.vectors_nd


class PlainTable(nn.Module):
    """A table of items.

    Attributes:
        rows_Rd: the vectors.
        squares_R: row-wise Adagrad's sums of squares.
        learning_rate: the learning rate of the next backward pass.
    """

    rows_Rd: Tensor
    squares_R: Tensor

    def __init__(self, rows_Rd: Tensor, learning_rate: float) -> None:
        super().__init__()
        self.register_buffer("rows_Rd", rows_Rd)
        self.register_buffer("squares_R", torch.zeros(len(rows_Rd)))
        self.learning_rate = learning_rate

    def forward(self, ids: Any) -> dict[str, PlainVectors]:
        """Looks up ids with a single key."""
        (key,) = ids.keys()
        # Autograd calls backward only if an input needs a gradient; the rows get theirs there.
        needs_gradient = torch.zeros((), device=self.rows_Rd.device, requires_grad=True)
        vectors_nd: Tensor = _Lookup.apply(needs_gradient, self, ids.values())
        return {key: PlainVectors(vectors_nd)}

    @torch.no_grad()
    def learn(self, id_n: Tensor, grad_nd: Tensor) -> None:
        """Changes the rows of some ids by their gradients."""
        id_n, order_n = id_n.sort(stable=True)
        is_first_n = torch.ones_like(id_n, dtype=torch.bool)
        is_first_n[1:] = id_n[1:] != id_n[:-1]

        # Place u has the u-th distinct id. The places after the last one have gradients of zero
        # for row 0, which change nothing.
        place_n = is_first_n.cumsum(0) - 1
        sum_nd = torch.zeros_like(grad_nd).index_add_(0, place_n, grad_nd[order_n])
        row_n = torch.zeros_like(id_n).scatter_(0, place_n, id_n)

        self.squares_R.index_add_(0, row_n, sum_nd.square().mean(1))
        rate_n = self.learning_rate / (self.squares_R[row_n].sqrt() + _EPS)
        self.rows_Rd.index_add_(0, row_n, sum_nd * -rate_n[:, None])


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _: Tensor, table: PlainTable, id_n: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(id_n)
        return table.rows_Rd.index_select(0, id_n)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (id_n,) = ctx.saved_tensors
        ctx.table.learn(id_n, grads[0])
        return None, None, None
