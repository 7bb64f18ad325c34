"""An adapter's parameters: the matrix of Eq. 2, or a vector of its own.

Shapes: G adapters, R rows, d width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from torchrec_priors.ops.residual_adapters import residual_adapters

AdapterKind = Literal["matrix", "vector"]


def new_adapters(number: int, dim: int, kind: AdapterKind, std: float) -> nn.Parameter:
    """[G, d, d] or [G, d]: zero, or normal of `std` from torch's own generator."""
    values = torch.zeros(number, *([dim] * {"matrix": 2, "vector": 1}[kind]))
    if std:
        values.normal_(std=std)
    return nn.Parameter(values)


def adapt(
    z_Nd: Tensor,
    adapters: Tensor,
    row_R: Tensor,
    runs: list[tuple[int, int]],
    added_Gd: Tensor | None = None,
) -> Tensor:
    """[R, d]: the vectors that rows ask for, with what their adapters add to them.

    Args:
        adapters: see `new_adapters`.
        row_R: which vector each row takes.
        runs: (adapter, rows), one run after another; adapter -1 adds nothing.
        added_Gd: what else an adapter that is a matrix adds.
    """
    if adapters.dim() == 2:
        return residual_adapters(z_Nd, None, adapters, row_R, runs)
    return residual_adapters(z_Nd, adapters, added_Gd, row_R, runs)
