"""Row-wise Adagrad for a table that is cut into columns, with the same result as for whole rows.

The gradient g_r of row r is the sum over the row's occurrences in a batch. The optimizer keeps one
number m_r per row, and divides by its square root:

    m_r += mean over columns c of g_rc^2        w_r -= rate * g_r / (sqrt(m_r) + eps)

FBGEMM does this inside backward, for each shard of a table separately. The mean is then over the
columns of the shard, so the result would differ from that of whole rows. Just before FBGEMM adds
the mean of the shard, this module corrects m_r in every shard, for the rows that were looked up:

    m_r += mean over all columns - mean over the shard's columns

After both additions, m_r is that of the whole row, and all shards have the same m_r except for
rounding. All shards of a table look up the same ids. Therefore one all-reduce of the sums of
squares, with one number for each row that was looked up, is enough.

Shapes: U rows that were looked up, R rows of the table, F features of a lookup, d columns of a
shard, P parts of a table on this rank.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.embedding.plan import ModelPlan
from torchrec_priors.ops.row_squares import Occurrences, row_squares
from torchrec_priors.settings.sharding import COLUMN_WISE

# A mean below this number causes no correction: rounding could make m negative, and the square root
# of this number is negligible compared with eps (1e-8).
_LEAST = 1e-30


@dataclass(frozen=True)
class _Part:
    """A shard of columns on this rank.

    Attributes:
        features: indices of the lookup's features that look up this shard.
        columns: number of columns.
        kernel: the kernel of FBGEMM that holds the shard.
        number: index of the shard among the kernel's tables.
    """

    features: range
    columns: int
    kernel: SplitTableBatchedEmbeddingBagsCodegen
    number: int

    @property
    def sum_R(self) -> Tensor:
        """A live view of the optimizer's numbers m.

        It is `data`, because autograd saves the tensor for FBGEMM and would reject changes in
        place.
        """
        states: Tensor = self.kernel.split_optimizer_states()[self.number][0]
        return states.data


@dataclass(frozen=True)
class _Cut:
    """This rank's parts of a table that is cut into columns.

    Attributes:
        columns: number of columns of the whole table.
        parts: this rank's parts, all in the same lookup.
        group: process group of the ranks that hold parts; None if this rank holds all.
    """

    columns: int
    parts: list[_Part]
    group: dist.ProcessGroup | None


def learn_as_whole_rows(
    model: nn.Module, plan: ModelPlan, timeout: timedelta | None = None
) -> None:
    """Makes shards of columns learn like whole rows, in every later backward pass.

    Every rank must call it.

    Args:
        model: sharded model.
        plan: its sharding plan.
        timeout: timeout of the groups of ranks that share a table.
    """
    # Groups come first: every rank must create them, even a rank without parts.
    group_of = _groups(plan, timeout)

    for module in model.modules():
        if not isinstance(module, ShardedEmbeddingCollection):
            continue
        for lookup in module._lookups:
            parts = _parts(lookup)
            # Each cut has an all-reduce. All ranks have the same order, which is that of the plan.
            cuts = [
                _Cut(plan[name].table.columns, parts[name], group)
                for name, group in group_of.items()
                if name in parts
            ]
            if cuts:
                lookup.register_forward_hook(partial(_at_backward, cuts, _columns(lookup)))


def _groups(plan: ModelPlan, timeout: timedelta | None) -> dict[str, dist.ProcessGroup | None]:
    """Creates a process group for each table that is cut into columns: the ranks that hold it.

    Returns:
        The group by the table's name; None if one rank holds the whole table.
    """
    group_of_ranks: dict[frozenset[int], dist.ProcessGroup | None] = {}
    group_of_table = {}
    for table in plan.tables:
        if table.type != COLUMN_WISE or len(table.pieces) < 2:
            continue

        # Every rank must create every group, in the same order, even groups that it is not in.
        ranks = frozenset(piece.rank for piece in table.pieces)
        if ranks not in group_of_ranks:
            group = None
            if len(ranks) > 1:
                group = dist.new_group(sorted(ranks), timeout=timeout)
            group_of_ranks[ranks] = group
        group_of_table[table.table.name] = group_of_ranks[ranks]
    return group_of_table


def _parts(lookup: Any) -> dict[str, list[_Part]]:
    """Returns the parts of each table in a lookup, by the table's name.

    Only tables that row-wise Adagrad trains are included.
    """
    parts: dict[str, list[_Part]] = {}
    first = 0
    for embedding in lookup._emb_modules:
        for number, table in enumerate(embedding.config.embedding_tables):
            # Features are counted over all tables of the lookup.
            features = range(first, first + table.num_features())
            first = features.stop

            if embedding.emb_module.optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD:
                part = _Part(features, table.local_cols, embedding.emb_module, number)
                parts.setdefault(table.name, []).append(part)
    return parts


def _columns(lookup: Any) -> list[int]:
    """Returns the number of columns of the shard that each feature looks up, [F]."""
    tables = [
        table for embedding in lookup._emb_modules for table in embedding.config.embedding_tables
    ]
    return [table.local_cols for table in tables for _ in range(table.num_features())]


def _at_backward(
    cuts: list[_Cut],
    columns_F: list[int],
    _: nn.Module,
    arguments: tuple[KeyedJaggedTensor],
    vectors: Tensor,
) -> None:
    """A forward hook of a lookup. It lets `_correct` run when the vectors have their gradient.

    FBGEMM gets the gradient afterwards.
    """
    if vectors.requires_grad:
        vectors.register_hook(partial(_correct, cuts, columns_F, arguments[0]))


def _correct(
    cuts: list[_Cut], columns_F: list[int], ids: KeyedJaggedTensor, gradient: Tensor
) -> None:
    """Corrects m of the rows that were looked up, so that it is right after FBGEMM's addition.

    Args:
        cuts: this rank's parts of the tables in the lookup.
        columns_F: number of columns of each feature's shard.
        ids: the ids that were looked up.
        gradient: gradient of all vectors, feature after feature.
    """
    # The gradient is made flat, because features may have shards of different widths.
    ids_F = ids.values().split(ids.length_per_key())
    gradient_F = gradient.flatten().split(
        [len(feature_ids) * columns for feature_ids, columns in zip(ids_F, columns_F, strict=True)]
    )

    for cut in cuts:
        occurrences = Occurrences.of(torch.cat([ids_F[f] for f in cut.parts[0].features]))
        # All shards of the table look up the same ids. So if there are none, no rank takes part in
        # the collective.
        if not len(occurrences.row_U):
            continue

        # For each part, the sum of squares of each row's gradient.
        squares = []
        for part in cut.parts:
            gradient_Nd = torch.cat([gradient_F[f] for f in part.features]).view(-1, part.columns)
            squares.append(row_squares(occurrences, gradient_Nd))
        square_PU = torch.stack(squares)

        # The sum over the columns of this rank, then over the columns of all ranks.
        sum_U = square_PU.sum(0)
        if cut.group is not None:
            dist.all_reduce(sum_U, group=cut.group)

        mean_U = sum_U / cut.columns
        for part, square_U in zip(cut.parts, square_PU, strict=True):
            change_U = mean_U - square_U / part.columns
            change_U = change_U.masked_fill_(mean_U < _LEAST, 0.0)
            part.sum_R.index_add_(0, occurrences.row_U, change_U)
