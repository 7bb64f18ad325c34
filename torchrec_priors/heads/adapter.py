"""Parameters of adapters: an adapter has the matrix of Eq. 2, or only a vector.

Shapes: G adapters, R rows, d width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from torchrec_priors.ops.residual_adapters import (
    DeviceRuns,
    grouped_adapters,
    residual_adapters,
)

AdapterKind = Literal["matrix", "vector"]


def new_adapters(number: int, dim: int, kind: AdapterKind, std: float) -> nn.Parameter:
    """Returns the parameters of G adapters: [G, d, d] for matrices, [G, d] for vectors.

    Args:
        number: G.
        dim: d.
        kind: whether adapters are matrices or vectors.
        std: standard deviation of the initial values, which are normal numbers from torch's
            generator; with 0, they are zeros.
    """
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
    """Returns each row's input vector plus what its adapter adds to it, [R, d].

    Args:
        z_Nd: input vectors; a vector may be the input of several rows.
        adapters: see `new_adapters`.
        row_R: index of each row's input vector.
        runs: (adapter, number of rows), one run after another; adapter -1 adds nothing.
        added_Gd: a further vector that each adapter with a matrix adds; None if there are none.
    """
    if adapters.dim() == 2:
        return residual_adapters(z_Nd, None, adapters, row_R, runs)
    return residual_adapters(z_Nd, adapters, added_Gd, row_R, runs)


def adapt_on_gpu(
    z_Nd: Tensor,
    adapters: Tensor,
    row_R: Tensor | None,
    runs: DeviceRuns,
    added_Gd: Tensor | None = None,
) -> Tensor:
    """Returns what `adapt` returns, with runs that stay on the device.

    Args:
        z_Nd, adapters, added_Gd: as for `adapt`.
        row_R: index of each row's input vector; None if each row has its own, in the same order.
        runs: the runs of the rows.
    """
    if adapters.dim() == 2:
        return grouped_adapters(z_Nd, None, adapters, row_R, runs)
    return grouped_adapters(z_Nd, adapters, added_Gd, row_R, runs)
