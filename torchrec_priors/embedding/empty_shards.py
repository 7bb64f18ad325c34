"""Makes lookups work on ranks that hold no row of any table.

Rows are cut into blocks of ceil(rows / ranks), so the last ranks may have none. For example, if a
table has 5 rows on 4 ranks, the last rank has none. Such a rank still takes part in every lookup,
with no ids and no vectors.

But if FBGEMM finds no number in the host's memory, it chooses its GPU kernels, which reject tensors
on a CPU. So such a rank gets one number that belongs to no row. No view of the table or of the
optimizer's state contains this number, and nothing reads or writes it.
"""

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec.distributed.embedding import ShardedEmbeddingCollection


def let_empty_shards_answer(model: nn.Module) -> None:
    """Makes every lookup of a sharded model work if this rank holds no rows."""
    for module in model.modules():
        if not isinstance(module, ShardedEmbeddingCollection):
            continue
        for lookup in module._lookups:
            for kernel in lookup.modules():
                if isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen) and kernel.use_cpu:
                    _fill(kernel)


def _fill(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    """Gives a kernel without rows one weight, and one number of optimizer state if it has state."""
    for name in ("weights_host", "momentum1_host"):
        values = getattr(kernel, name, None)
        if values is None or values.numel():
            continue
        delattr(kernel, name)
        setattr(kernel, name, nn.Parameter(torch.zeros(1, dtype=values.dtype)))
