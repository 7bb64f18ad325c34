"""What ranks tell one another in a search."""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> list[Tensor]:
    """Every rank's rows, whose numbers may differ."""
    world = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(sizes))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def exchange(sent_WBk: Tensor) -> Tensor:
    """Row w goes to rank w; row w of the answer came from rank w."""
    received = torch.empty_like(sent_WBk)
    dist.all_to_all_single(received, sent_WBk)
    return received
