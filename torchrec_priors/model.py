"""The whole model: one lookup, the encoder, the prior heads, and the loss of a batch.

Nothing here knows about ranks: the table is sharded from outside, and `gather` is how negatives reach all ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.batch import Batch
from torchrec_priors.encoder.hstu import HSTU, EncoderConfig
from torchrec_priors.errors import UserError
from torchrec_priors.heads.hierarchical import HierarchicalHeads
from torchrec_priors.heads.score import Score, ScoreKind
from torchrec_priors.loss import counts_per_path_and_offset, discount, find_positives, prior_loss
from torchrec_priors.ops.in_group_softmax import NegativeSets, in_group_nll
from torchrec_priors.priors.tree import PriorTree


@dataclass
class ModelConfig:
    """Sizes and the score.

    Attributes:
        dim: width of item vectors and states.
        context: most items of a history that the encoder sees (T of the paper).
        horizon: tau, how many future items every position predicts in training.
        score: `dot` (Eq. 1) or `cosine` (cosine times a learned scale).
    """

    dim: int = 64
    context: int = 50
    horizon: int = 8
    score: ScoreKind = "dot"

    def check(self) -> None:
        for name in ("dim", "context", "horizon"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} = {getattr(self, name)} must be at least 1")
        if self.dim % 4:
            raise UserError(f"model.dim = {self.dim} must be a multiple of 4 (FBGEMM's kernels)")


@dataclass(frozen=True)
class Exchange:
    """What ranks tell one another in a step; single-process by default.

    Attributes:
        gather: this rank's pieces, and who serves which slots -> all slots.
        total: a tensor -> its sum over ranks.
        ranks: number of ranks, whose gradients are averaged.
    """

    gather: Callable[[Tensor, list[Tensor]], Tensor] = lambda piece, _slots: piece
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ranks: int = 1


class Recommender(nn.Module):
    """Item table, encoder, heads and score."""

    def __init__(
        self,
        config: ModelConfig,
        encoder: EncoderConfig,
        tree: PriorTree,
        table: EmbeddingCollection,
        logq: bool,
    ) -> None:
        super().__init__()
        self.config, self.logq = config, logq
        self.table = table
        self.encoder = HSTU(encoder, config.dim, config.context)
        self.tree = tree
        self.heads = HierarchicalHeads(tree, config.dim)
        self.score = Score(config.score)
        self.exchange = Exchange()
        self.register_buffer("discount_T", discount(1.0, config.horizon), persistent=False)
        self.register_buffer("weight_K", torch.ones(len(tree.paths)) / len(tree.paths), persistent=False)
        item_set_K = torch.tensor(tree.item_set_K)
        self.register_buffer("item_set_K", item_set_K, persistent=False)

    discount_T: Tensor
    weight_K: Tensor
    item_set_K: Tensor

    def lookup(self, ids: KeyedJaggedTensor) -> Tensor:
        """Vectors of all ids, in their order: [values, d]."""
        (key,) = ids.keys()
        vectors: Tensor = self.table(ids)[key].values()
        return vectors

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch (Eq. 8).

        Returns:
            This rank's part of the loss, times the number of ranks, so that averaging gradients over ranks gives the
            gradient of the whole loss; and the whole loss, detached, the same on all ranks.
        """
        vectors = self.lookup(batch.ids)
        own_negatives = len(batch.draw.own_ids)
        future = len(vectors) - own_negatives
        vector_Xd, served_rd = vectors[:future], vectors[future:]
        item_X = batch.ids.values()[:future]

        state_Nd = self.encoder(vector_Xd.index_select(0, batch.context_N), batch.offsets_B1, batch.dropout)
        positives = find_positives(self.tree, item_X, batch.context_N, batch.end_N, self.config.horizon)
        query_Pd = self.score.queries(self.heads(state_Nd, positives.token_P, positives.path_P))
        nll_M = in_group_nll(
            query_Pd,
            torch.bincount(self.item_set_K[positives.path_P], minlength=self.tree.item_sets).tolist(),
            self.score.items(vector_Xd).index_select(0, positives.source_M),
            item_X[positives.source_M],
            positives.query_M,
            self._negatives(batch, served_rd),
        )
        counts_KT = counts_per_path_and_offset(positives, len(self.tree.paths), self.config.horizon)
        counts_KT = self.exchange.total(counts_KT)
        part = prior_loss(nll_M, positives, counts_KT, self.weight_K, self.discount_T)
        return part * self.exchange.ranks, self.exchange.total(part.detach().clone())

    def _negatives(self, batch: Batch, served_rd: Tensor) -> NegativeSets:
        slots_W = [torch.from_numpy(slots).to(served_rd.device) for slots in batch.draw.slots_W]
        ids = torch.from_numpy(batch.draw.own_ids).to(served_rd.device)
        return NegativeSets(
            vectors_nd=self.score.items(self.exchange.gather(served_rd, slots_W)),
            ids_n=self.exchange.gather(ids, slots_W),
            counts_S=batch.draw.counts_S,
            shifts_S=batch.draw.shifts_S if self.logq else [0.0] * len(batch.draw.counts_S),
        )

    def queries(self, ids: KeyedJaggedTensor) -> Tensor:
        """Queries of every path from the last position of each history: [B, K, d], scaled and normalised for scoring.

        Args:
            ids: histories, one row each, none empty.
        """
        offsets_B1 = ids.offsets()
        state_Nd = self.encoder(self.lookup(ids), offsets_B1)
        last_Bd = state_Nd[offsets_B1[1:] - 1]
        users, paths = len(last_Bd), len(self.tree.paths)
        user_P = torch.arange(users, device=last_Bd.device).repeat(paths)
        path_P = torch.repeat_interleave(torch.arange(paths, device=last_Bd.device), users)
        query_Pd = self.score.queries(self.heads(last_Bd, user_P, path_P))
        return query_Pd.view(paths, users, -1).transpose(0, 1)
