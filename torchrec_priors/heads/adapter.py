"""What an adapter adds to a vector: Eq. 2's SiLU(W z), or a vector of its own.

Shapes: R rows sorted by adapter, G adapters, d width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.ops.grouped_linear import grouped_linear

AdapterKind = Literal["matrix", "vector"]


def new_adapters(number: int, dim: int, kind: AdapterKind, std: float) -> nn.Parameter:
    """[G, d, d] or [G, d]: zero, or normal of `std` from torch's own generator."""
    values = torch.zeros(number, *([dim] * {"matrix": 2, "vector": 1}[kind]))
    if std:
        values.normal_(std=std)
    return nn.Parameter(values)


def adapt(z_Rd: Tensor, adapters: Tensor, adapter_R: Tensor) -> Tensor:
    """What each row's adapter adds to it: [R, d].

    Args:
        adapters: see `new_adapters`.
        adapter_R: number of each row's, ascending.
    """
    if adapters.dim() == 2:
        return adapters.index_select(0, adapter_R)
    counts = torch.bincount(adapter_R, minlength=len(adapters)).tolist()
    return F.silu(grouped_linear(z_Rd, adapters, counts))
