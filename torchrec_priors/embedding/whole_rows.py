"""Row-wise Adagrad of a table that is cut into columns, with the result of whole rows.

For row r with gradient g_r, summed over its occurrences, the optimizer keeps one number m_r, and
divides by its root:

    m_r += mean over c of g_rc^2        w_r -= rate * g_r / (sqrt(m_r) + eps)

FBGEMM does this inside backward for each shard of a table separately: with the mean over the
shard's columns, which is another optimizer. So just before it does, the number of every row that
was looked up is corrected in every shard by what the other columns contribute,

    m_r += mean over all columns - mean over the shard's

and what FBGEMM then adds makes it the whole row's number, the same in all shards but for rounding.
Column-wise shards of a table look up the same ids, so one all-reduce of sums of squares, a number
for each row that was looked up, gives the ranks that hold them all they need.

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

# Below this mean, rounding could make a difference negative; its root is negligible next to eps
# (1e-8).
_LEAST = 1e-30


@dataclass(frozen=True)
class _Part:
    """A shard of columns on this rank.

    Attributes:
        features: numbers of the lookup's features that it answers.
        columns: number of its columns.
        kernel: FBGEMM's tables, one of which it is.
        number: number of the shard among the kernel's tables.
    """

    features: range
    columns: int
    kernel: SplitTableBatchedEmbeddingBagsCodegen
    number: int

    @property
    def sum_R(self) -> Tensor:
        """A live view of the optimizer's numbers. It is `data`, as autograd keeps the tensor for
        FBGEMM and would reject changes in place."""
        states: Tensor = self.kernel.split_optimizer_states()[self.number][0]
        return states.data


@dataclass(frozen=True)
class _Cut:
    """This rank's parts of a table that is cut into columns.

    Attributes:
        columns: number of columns of the whole table.
        parts: this rank's parts, all of one lookup.
        group: process group of the ranks that hold parts; None if this one holds all.
    """

    columns: int
    parts: list[_Part]
    group: dist.ProcessGroup | None


def learn_as_whole_rows(
    model: nn.Module, plan: ModelPlan, timeout: timedelta | None = None
) -> None:
    """Lets shards of columns learn as whole rows do, in every backward from now on. Every rank must
    call it.

    Args:
        model: sharded model.
        timeout: timeout of the groups of ranks that share a table.
    """
    # Groups first: all ranks create them, though some may have no part in a lookup.
    group_of = _groups(plan, timeout)

    for module in model.modules():
        if not isinstance(module, ShardedEmbeddingCollection):
            continue
        for lookup in module._lookups:
            parts = _parts(lookup)
            # In the plan's order, which is the same on every rank, as each cut has an all-reduce.
            cuts = [
                _Cut(plan[name].table.columns, parts[name], group)
                for name, group in group_of.items()
                if name in parts
            ]
            if cuts:
                lookup.register_forward_hook(partial(_at_backward, cuts, _columns(lookup)))


def _groups(plan: ModelPlan, timeout: timedelta | None) -> dict[str, dist.ProcessGroup | None]:
    """For each table that is cut into columns, the process group of the ranks that hold some."""
    group_of_ranks: dict[frozenset[int], dist.ProcessGroup | None] = {}
    group_of_table = {}
    for table in plan.tables:
        if table.type != COLUMN_WISE or len(table.pieces) < 2:
            continue

        # Every rank must create every group, in the same order, also those that it is not in.
        ranks = frozenset(piece.rank for piece in table.pieces)
        if ranks not in group_of_ranks:
            group = None
            if len(ranks) > 1:
                group = dist.new_group(sorted(ranks), timeout=timeout)
            group_of_ranks[ranks] = group
        group_of_table[table.table.name] = group_of_ranks[ranks]
    return group_of_table


def _parts(lookup: Any) -> dict[str, list[_Part]]:
    """The parts of each table in a lookup that row-wise Adagrad trains, by the table's name."""
    parts: dict[str, list[_Part]] = {}
    first = 0
    for embedding in lookup._emb_modules:
        for number, table in enumerate(embedding.config.embedding_tables):
            # Features are numbered through all tables of the lookup.
            features = range(first, first + table.num_features())
            first = features.stop

            if embedding.emb_module.optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD:
                part = _Part(features, table.local_cols, embedding.emb_module, number)
                parts.setdefault(table.name, []).append(part)
    return parts


def _columns(lookup: Any) -> list[int]:
    """[F]: the number of columns of the shard that answers each feature."""
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
    """A forward hook of a lookup: corrects the numbers once the vectors have a gradient, before
    FBGEMM gets it."""
    if vectors.requires_grad:
        vectors.register_hook(partial(_correct, cuts, columns_F, arguments[0]))


def _correct(
    cuts: list[_Cut], columns_F: list[int], ids: KeyedJaggedTensor, gradient: Tensor
) -> None:
    """Corrects the numbers of the rows that were looked up: with what FBGEMM then adds, they are
    those of whole rows.

    Args:
        gradient: gradient of all vectors, feature after feature, flat.
    """
    # The gradient is flat, as features may have shards of different widths.
    ids_F = ids.values().split(ids.length_per_key())
    gradient_F = gradient.flatten().split(
        [len(feature_ids) * columns for feature_ids, columns in zip(ids_F, columns_F, strict=True)]
    )

    for cut in cuts:
        occurrences = Occurrences.of(torch.cat([ids_F[f] for f in cut.parts[0].features]))
        # Then other ranks have none either, as their shards look up the same ids: no collective.
        if not len(occurrences.row_U):
            continue

        # Of each row, the square of the gradient that is summed over its occurrences.
        squares = []
        for part in cut.parts:
            gradient_Nd = torch.cat([gradient_F[f] for f in part.features]).view(-1, part.columns)
            squares.append(row_squares(occurrences, gradient_Nd))
        square_PU = torch.stack(squares)

        # Over the columns of this rank, then over those of the others.
        sum_U = square_PU.sum(0)
        if cut.group is not None:
            dist.all_reduce(sum_U, group=cut.group)

        mean_U = sum_U / cut.columns
        for part, square_U in zip(cut.parts, square_PU, strict=True):
            change_U = mean_U - square_U / part.columns
            change_U = change_U.masked_fill_(mean_U < _LEAST, 0.0)
            part.sum_R.index_add_(0, occurrences.row_U, change_U)
