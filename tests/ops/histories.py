"""Random histories, queries at their positions, and negatives."""

import torch
from torch import Tensor


def random_histories(
    lengths: list[int], queries: list[int], negatives: list[int], ids: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Ids and bounds of histories, the history of each position, positions of queries, ids of negatives.

    Args:
        queries: of each item set.
        negatives: of each item set, then those that are shared; ids ascend within each.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    history_N = torch.arange(len(lengths)).repeat_interleave(
        torch.tensor(lengths, dtype=torch.int64)
    )
    id_N = torch.randint(0, ids, (len(history_N),), generator=generator)
    position_P = torch.randint(0, max(len(id_N), 1), (sum(queries),), generator=generator)
    pools = [
        torch.randint(0, ids, (count,), generator=generator).sort().values for count in negatives
    ]
    return id_N, offsets, history_N, position_P, torch.cat([*pools, id_N[:0]])
