"""Copies numbers to a device without making the host wait for it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_device(
    numbers: Sequence[float] | np.ndarray,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Returns numbers of the host as a tensor of the device.

    A GPU copies only from pinned memory by itself; other copies make the host wait.

    >>> to_device([2, 3], torch.device("cpu")).tolist()
    [2, 3]
    """
    if isinstance(numbers, np.ndarray):
        numbers_of_host = torch.from_numpy(numbers)
    else:
        numbers_of_host = torch.tensor(numbers, dtype=dtype)
    if device.type != "cuda":
        return numbers_of_host.to(device)
    return numbers_of_host.pin_memory().to(device, non_blocking=True)
