"""y_r = W[g(r)] x_r for rows sorted by group: a grouped GEMM without bias.

Shapes: R rows sorted by group, G groups, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor


def grouped_linear_reference(x_RI: Tensor, weight_GOI: Tensor, counts_G: list[int]) -> Tensor:
    """The definition, row by row with a weight gathered for each. Same arguments and result as `grouped_linear`."""
    group_R = torch.repeat_interleave(torch.arange(len(counts_G)), torch.tensor(counts_G)).to(x_RI.device)
    return torch.einsum("ri,roi->ro", x_RI, weight_GOI[group_R])


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_GOI: Tensor, counts_G: list[int]) -> Tensor:
        ctx.save_for_backward(x_RI, weight_GOI)
        ctx.counts = counts_G
        out_RO = x_RI.new_empty(len(x_RI), weight_GOI.shape[1])
        for group, rows in _groups(counts_G):
            torch.mm(x_RI[rows], weight_GOI[group].T, out=out_RO[rows])
        return out_RO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_RI, weight_GOI = ctx.saved_tensors
        grad_RO = grads[0].contiguous()
        grad_x_RI = torch.empty_like(x_RI)
        grad_weight_GOI = torch.zeros_like(weight_GOI)
        for group, rows in _groups(ctx.counts):
            torch.mm(grad_RO[rows], weight_GOI[group], out=grad_x_RI[rows])
            torch.mm(grad_RO[rows].T, x_RI[rows], out=grad_weight_GOI[group])
        return grad_x_RI, grad_weight_GOI, None


def _groups(counts_G: list[int]) -> list[tuple[int, slice]]:
    """Group number and rows of every group that has rows."""
    bounds, start = [], 0
    for group, count in enumerate(counts_G):
        if count:
            bounds.append((group, slice(start, start + count)))
        start += count
    return bounds


def grouped_linear(x_RI: Tensor, weight_GOI: Tensor, counts_G: list[int]) -> Tensor:
    """One matrix per group of rows.

    Args:
        x_RI: rows, sorted by group.
        weight_GOI: one [O, I] matrix a group.
        counts_G: rows in each group; their sum is R. Groups without rows cost nothing and get a zero gradient.
    """
    assert sum(counts_G) == len(x_RI), "counts and rows differ"
    out: Tensor = _GroupedLinear.apply(x_RI, weight_GOI, counts_G)
    return out
