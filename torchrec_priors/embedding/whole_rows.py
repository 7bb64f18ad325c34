"""Row-wise Adagrad of a table that is cut into columns, as it is of whole rows.

Of row r with gradient g_r, summed over its occurrences, the optimizer keeps one number, and divides by its root:

    m_r += mean over c of g_rc^2        w_r -= rate * g_r / (sqrt(m_r) + eps)

FBGEMM does this inside backward for each shard of a table by itself: with the mean over the shard's own columns, which
is another optimizer. So just before it does, every shard's number of every row that was looked up is moved by what the
other columns make of it,

    m_r += mean over all columns - mean over the shard's

and what FBGEMM then adds makes it the whole row's number, the same in all shards but for rounding. Column-wise shards
of a table are asked for the same ids, so one all-reduce of sums of squares, a number for each row that was looked up,
tells the ranks that hold them what they need.

Shapes: U rows that were looked up, R rows of the table, F features that a lookup is asked for, d columns of a shard.
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

_LEAST = 1e-30  # means whose root is nothing beside eps (1e-8): below, rounding could make a difference negative


@dataclass(frozen=True)
class _Part:
    """A shard of columns on this rank.

    Attributes:
        features: which of the lookup's features it answers.
        columns: how many it has.
        kernel: FBGEMM's tables of which it is one; `number`, which.
    """

    features: range
    columns: int
    kernel: SplitTableBatchedEmbeddingBagsCodegen
    number: int

    @property
    def sum_R(self) -> Tensor:
        """The optimizer's numbers, a live view; autograd, which keeps them for FBGEMM, does not mind its changes."""
        states: Tensor = self.kernel.split_optimizer_states()[self.number][0]
        return states.data


@dataclass(frozen=True)
class _Cut:
    """This rank's parts of a table that is cut into columns.

    Attributes:
        columns: of the whole table.
        parts: of one lookup.
        group: the ranks that hold parts; None where this one holds all.
    """

    columns: int
    parts: list[_Part]
    group: dist.ProcessGroup | None


def learn_as_whole_rows(
    model: nn.Module, plan: ModelPlan, timeout: timedelta | None = None
) -> None:
    """Lets shards of columns learn as whole rows do, in every backward from now on. Every rank must call it.

    Args:
        model: sharded.
        timeout: of the groups of ranks that share a table.
    """
    group_of = _groups(plan, timeout)
    for module in model.modules():
        if not isinstance(module, ShardedEmbeddingCollection):
            continue
        for lookup in module._lookups:
            parts = _parts(lookup)
            cuts = [
                _Cut(plan[name].table.columns, parts[name], group)
                for name, group in group_of.items()  # in one order on every rank, as each has an all-reduce
                if name in parts
            ]
            if cuts:
                lookup.register_forward_hook(partial(_at_backward, cuts, _columns(lookup)))


def _groups(plan: ModelPlan, timeout: timedelta | None) -> dict[str, dist.ProcessGroup | None]:
    """Of each table whose columns are cut apart, the ranks that hold some of them."""
    made: dict[frozenset[int], dist.ProcessGroup | None] = {}
    group_of = {}
    for table in plan.tables:
        if table.type == COLUMN_WISE and len(table.pieces) > 1:
            ranks = frozenset(piece.rank for piece in table.pieces)
            if ranks not in made:
                made[ranks] = (
                    dist.new_group(sorted(ranks), timeout=timeout) if len(ranks) > 1 else None
                )
            group_of[table.table.name] = made[ranks]
    return group_of


def _parts(lookup: Any) -> dict[str, list[_Part]]:
    """What row-wise Adagrad trains of each table in a lookup."""
    parts: dict[str, list[_Part]] = {}
    first = 0
    for embedding in lookup._emb_modules:
        for number, table in enumerate(embedding.config.embedding_tables):
            features = range(first, first + table.num_features())
            first = features.stop
            if embedding.emb_module.optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD:
                part = _Part(features, table.local_cols, embedding.emb_module, number)
                parts.setdefault(table.name, []).append(part)
    return parts


def _columns(lookup: Any) -> list[int]:
    """[F]: of the shard that answers each feature."""
    tables = [
        table for embedding in lookup._emb_modules for table in embedding.config.embedding_tables
    ]
    return [table.local_cols for table in tables for _ in range(table.num_features())]


def _at_backward(
    cuts: list[_Cut],
    columns_F: list[int],
    _: nn.Module,
    asked: tuple[KeyedJaggedTensor],
    vectors: Tensor,
) -> None:
    """When a lookup has found its vectors: has the numbers moved once their gradient is there, before FBGEMM has it."""
    if vectors.requires_grad:
        vectors.register_hook(partial(_move, cuts, columns_F, asked[0]))


def _move(
    cuts: list[_Cut], columns_F: list[int], asked: KeyedJaggedTensor, gradient: Tensor
) -> None:
    """Makes the numbers of the rows that were asked for those of whole rows, but for what FBGEMM then adds.

    Args:
        gradient: of all vectors, feature after feature, flat.
    """
    ids_F = asked.values().split(asked.length_per_key())
    gradient_F = gradient.flatten().split(
        [len(ids) * d for ids, d in zip(ids_F, columns_F, strict=True)]
    )
    for cut in cuts:
        found = Occurrences.of(torch.cat([ids_F[feature] for feature in cut.parts[0].features]))
        if not len(found.row_U):  # nor have other ranks any, whose shards are asked for the same
            continue
        square_PU = torch.stack(
            [
                row_squares(
                    found, torch.cat([gradient_F[f] for f in part.features]).view(-1, part.columns)
                )
                for part in cut.parts
            ]
        )
        whole_U = square_PU.sum(0)
        if cut.group is not None:
            dist.all_reduce(whole_U, group=cut.group)
        mean_U = whole_U / cut.columns
        for part, square_U in zip(cut.parts, square_PU, strict=True):
            move_U = mean_U - square_U / part.columns
            part.sum_R.index_add_(0, found.row_U, move_U.masked_fill_(mean_U < _LEAST, 0.0))
