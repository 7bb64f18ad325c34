"""Collects the negatives that ranks serve on all ranks, by one differentiable all-gather."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Pieces of all ranks in slot order; the gradient of a piece is the sum over all ranks."""

    @staticmethod
    def forward(
        ctx: Any, piece_rd: Tensor, slots_W: list[Tensor], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.slots = slots_W
        ctx.group = group
        return _all_slots(piece_rd, slots_W, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # A copy, as autograd may still use the gradient that all_reduce would overwrite.
        grad_nd = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad_nd, group=ctx.group)
        return grad_nd[ctx.slots[dist.get_rank(ctx.group)]], None, None


def gather_slots(piece: Tensor, slots_W: list[Tensor], group: dist.ProcessGroup) -> Tensor:
    """All slots from the pieces that ranks serve.

    Args:
        piece: this rank's rows, in the order of its slots; floating-point pieces carry gradients.
        slots_W: for each rank, its slots; together every slot once. Known to all ranks, so no sizes
            are exchanged.

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
    """The same without gradients."""
    # An all-gather needs pieces of one size.
    longest = max(len(slots) for slots in slots_W)
    padded = piece.new_zeros(longest, *piece.shape[1:])
    padded[: len(piece)] = piece

    parts = [torch.empty_like(padded) for _ in slots_W]
    dist.all_gather(parts, padded, group=group)

    whole = piece.new_empty(sum(len(slots) for slots in slots_W), *piece.shape[1:])
    for slots, part in zip(slots_W, parts, strict=True):
        whole[slots] = part[: len(slots)]
    return whole
