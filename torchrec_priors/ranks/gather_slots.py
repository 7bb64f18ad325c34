"""Collects the vectors of negatives on all ranks, by one differentiable all-gather.

A step's negatives have consecutive numbers, the slots. Each rank serves some slots: it has the
vectors of their items. The all-gather gives every rank the vectors of all slots.

Shapes: n slots, r slots of this rank, W ranks, d width.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Collects the pieces of all ranks; the gradient of a piece is summed over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, piece_rd: Tensor, slots_W: list[Tensor], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.slots = slots_W
        ctx.group = group
        return _all_slots(piece_rd, slots_W, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # all_reduce overwrites its argument. It gets a copy, because autograd may still use the
        # gradient.
        grad_nd = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad_nd, group=ctx.group)
        return grad_nd[ctx.slots[dist.get_rank(ctx.group)]], None, None


def gather_slots(piece: Tensor, slots_W: list[Tensor], group: dist.ProcessGroup) -> Tensor:
    """Collects the rows of all slots from the ranks that serve them. Every rank must call it.

    Args:
        piece: this rank's rows, one for each of its slots. If it has a floating-point type,
            gradients flow back to it.
        slots_W: the slots of each rank; each slot belongs to one rank. All ranks have the same
            `slots_W`, so they need not exchange the sizes of their pieces.

    Returns:
        One row for each slot, the same on every rank.
    """
    if len(slots_W) == 1:
        return piece

    if piece.is_floating_point():
        out: Tensor = _Gather.apply(piece, slots_W, group)
        return out
    return _all_slots(piece, slots_W, group)


def _all_slots(piece: Tensor, slots_W: list[Tensor], group: dist.ProcessGroup) -> Tensor:
    """Does the same as `gather_slots`, without gradients."""
    # An all-gather needs pieces of the same size, so shorter pieces are padded.
    longest = max(len(slots) for slots in slots_W)
    padded = piece.new_zeros(longest, *piece.shape[1:])
    padded[: len(piece)] = piece

    parts = [torch.empty_like(padded) for _ in slots_W]
    dist.all_gather(parts, padded, group=group)

    whole = piece.new_empty(sum(len(slots) for slots in slots_W), *piece.shape[1:])
    for slots, part in zip(slots_W, parts, strict=True):
        whole[slots] = part[: len(slots)]
    return whole
