"""The whole model: one lookup, the encoder, the prior heads, and the loss of a batch.

Nothing here knows about ranks: the table is sharded from outside, and `gather` is how negatives reach all ranks.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.baselines.ask import ask_last, score_of
from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.data.batch import Batch, Contexts
from torchrec_priors.embedding.dedup import AskedIds, StepIds, once
from torchrec_priors.embedding.features import FeatureTables
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.embedding.managed import ManagedRows
from torchrec_priors.encoder.encoder import Encoder, Jagged
from torchrec_priors.heads.certainty import Certainty
from torchrec_priors.heads.composition import Heads
from torchrec_priors.heads.gate import Gate
from torchrec_priors.loss import Counts, LossWeights, Positives, count, find_positives, gate_loss
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.exchange import Exchange
from torchrec_priors.settings.model import ModelConfig


@dataclass(frozen=True)
class PathQueries:
    """What the paths ask for, for a batch of users.

    Attributes:
        query_BKd: their queries, scaled and normalised for scoring.
        log_group_BK: log of the probability that a target belongs to the path's item set; 0 without a gate.
    """

    query_BKd: Tensor
    log_group_BK: Tensor

    def __len__(self) -> int:
        return len(self.query_BKd)

    def first(self, users: int) -> "PathQueries":
        return PathQueries(self.query_BKd[:users], self.log_group_BK[:users])


class Recommender(nn.Module):
    """Item table, encoder, heads and score."""

    def __init__(
        self,
        config: ModelConfig,
        encoder: Encoder,
        tree: PriorTree,
        heads: Heads,
        table: EmbeddingCollection | ManagedCollisionEmbeddingCollection,
        features: FeatureTables | None,
        gate_weight: float = 0.0,
        baseline: nn.Module | None = None,
    ) -> None:
        """
        Args:
            baseline: makes the queries in place of `heads`, see `baselines`.
        """
        super().__init__()
        self.config = config
        self.table = table
        self.features = features
        self.encoder = encoder
        self.tree = tree
        self.heads = heads
        self.baseline = baseline
        self.learnt_tree = (
            tree if baseline is None else PriorTree([], tree.items)
        )  # a baseline has targets once
        self.score = score_of(baseline, config.score)
        self.certainty = Certainty(len(tree.item_set_K))
        self.gate = Gate(config.dim, torch.from_numpy(tree.decided())) if gate_weight else None
        self.gate_weight = gate_weight
        self.exchange = Exchange()
        self.item_rows: ItemRows | ManagedRows = ItemRows(tree.items, tree.items)
        self.paths = len(tree.item_set_K)
        self.weights = LossWeights(len(self.learnt_tree.item_set_K), config.horizon)
        item_set_K = torch.tensor(tree.item_set_K)
        self.register_buffer("item_set_K", item_set_K, persistent=False)
        self.precision = torch.float32  # of the encoder's matrix products in training
        self.asks_once = False  # whether ids that repeat are looked up once
        self.hides_seen = False  # whether seen items are no negatives (`NegativesConfig.seen`)
        self.sees_events = False  # whether the encoder asks for events; the tree may need them, too

    item_set_K: Tensor

    def lookup(self, ids: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """Vectors of all ids, in their order: [values, d]; and the rows of the table that they stand in."""
        return self._found(self._asked(ids))

    def _asked(self, ids: KeyedJaggedTensor) -> AskedIds:
        return once(ids) if self.asks_once else (ids, {})

    def _found(self, asked_ids: AskedIds) -> tuple[Tensor, Tensor]:
        asked, place = asked_ids
        (key,) = asked.keys()
        found = self.table(asked)
        if isinstance(found, tuple):  # a managed table, which says which rows it took
            vectors, rows = (part[key].values() for part in found)
        else:
            vectors = found[key].values()
            rows = asked.values()
        return (vectors, rows) if not place else (vectors[place[key]], rows[place[key]])

    def step_ids(self, batch: Batch) -> StepIds:
        """What `look_up` asks the tables for."""
        features = None
        if self.features is not None:
            context_N = torch.cat([part.context_N for part in batch.parts])
            features = self.features.asked(batch.item_X[context_N])
        return StepIds(self._asked(batch.ids), features)

    def look_up(self, batch: Batch, ids: StepIds | None = None) -> LookedUp:
        """The one lookup of a step (and that of side features).

        Args:
            ids: what `step_ids` gives, where it is known.
        """
        ids = self.step_ids(batch) if ids is None else ids
        vectors, rows = self._found(ids.items)
        future = len(vectors) - len(batch.draw.own_ids)
        slots_W = [torch.from_numpy(slots).to(vectors.device) for slots in batch.draw.slots_W]
        ids_n = self.exchange.gather(rows[future:], slots_W)
        shifts_n = None
        if batch.draw.own_shifts is not None:
            shifts_n = self.exchange.gather(
                torch.from_numpy(batch.draw.own_shifts).to(vectors.device), slots_W
            )
        item_X = batch.item_X
        row_X = rows[:future]
        roots = [vectors[:future], self.exchange.gather(vectors[future:], slots_W)]
        if self.features is not None:
            assert ids.features is not None
            roots.append(self.features.found(ids.features))
        negatives = NegativeSets(
            vectors_nd=roots[1].detach().requires_grad_(),
            ids_n=ids_n,
            counts_S=batch.draw.counts_S,
            shared=batch.draw.shared,
            shifts_n=shifts_n,
        )
        leaf, *beside = (root.detach().requires_grad_() for root in (roots[0], *roots[2:]))
        return LookedUp(
            item_X,
            row_X,
            batch.event_X,
            leaf,
            beside[0] if beside else None,
            negatives,
            roots,
            batch.step,
        )

    def positives(self, looked_up: LookedUp, part: Contexts) -> Positives:
        trained_X = (
            self.item_rows.trained(looked_up.row_X)
            if isinstance(self.item_rows, ManagedRows)
            else None
        )
        return find_positives(
            self.learnt_tree,
            looked_up.item_X,
            part.context_N,
            part.end_N,
            self.config.horizon,
            event_X=looked_up.event_X,
            user_N=part.user_N,
            trained_X=trained_X,
        )

    def counts(self, positives: list[Positives]) -> Counts:
        """Of the global batch; every rank must call it."""
        own = [count(part, self.config.horizon) for part in positives]
        start = torch.zeros(
            2, self.config.horizon, dtype=torch.int64, device=self.item_set_K.device
        )
        trained_T, target_T = self.exchange.total(sum(own, start=start))
        return Counts(trained_T, target_T)

    def forward(
        self, looked_up: LookedUp, part: Contexts, positives: Positives, counts: Counts
    ) -> tuple[Tensor, Tensor]:
        """A part's share of the loss (Eq. 8, and the gate's), times the number of ranks, so that averaging gradients
        over ranks gives the gradient of the whole loss; and its sums for `Certainty`."""
        vector_Xd = looked_up.vector_Xd
        token_Nd = vector_Xd.index_select(0, part.context_N)
        if looked_up.beside_Nd is not None:
            token_Nd = token_Nd + looked_up.beside_Nd[part.first : part.first + len(token_Nd)]
        event_N = part.event_N if self.sees_events else None
        histories = Jagged(token_Nd, part.offsets_B1, part.time_N, event_N, part.dropout)
        states = replace(histories, vector_Nd=self._encode(histories))
        chosen = positives.trained()
        seen = None
        if self.hides_seen:
            seen = SeenItems(looked_up.row_X[part.context_N], part.offsets_B1, looked_up.negatives)
        if self.baseline is None:
            learnt = self._learn_heads(looked_up, states.vector_Nd, chosen, counts, seen)
        else:
            learnt = self.baseline.learn(states, self._learning(looked_up, chosen, counts, seen))  # type: ignore[operator]
        loss = learnt.loss
        if self.gate is not None:
            decisions = (self.gate(states.vector_Nd), self.gate.gated_S, positives, self.item_set_K)
            loss = loss + self.gate_weight * gate_loss(
                *decisions, counts.target_T, self.weights.decision_T
            )
        return loss * self.exchange.ranks, self.certainty.sums(
            learnt.nll_M, learnt.path_M, self.paths
        )

    def _learn_heads(
        self,
        looked_up: LookedUp,
        state_Nd: Tensor,
        chosen: Positives,
        counts: Counts,
        seen: SeenItems | None,
    ) -> Learnt:
        """Eq. 8 of the prior heads."""
        query_Pd = self.score.queries(self.heads(state_Nd, chosen.token_P, chosen.path_P))
        counts_S = torch.bincount(
            self.item_set_K[chosen.path_P], minlength=self.tree.item_sets
        ).tolist()
        weighed = self._weighed(looked_up, chosen, counts)
        hidden = None if seen is None else seen.hidden(chosen.token_P, counts_S, weighed)
        loss, nll_M = in_group_loss(query_Pd, counts_S, weighed, self._negatives(looked_up), hidden)
        return Learnt(loss, nll_M, chosen.path_M)

    def _learning(
        self, looked_up: LookedUp, chosen: Positives, counts: Counts, seen: SeenItems | None
    ) -> Learning:
        """What a baseline learns from; every target counts once."""
        return Learning(
            token_Q=chosen.token_P,
            vector_Xd=looked_up.vector_Xd,
            positives=self._weighed(looked_up, chosen, counts),
            offset_M=chosen.offset_M,
            negatives=self._negatives(looked_up),
            score=self.score,
            positions=counts.target_T[0],
            step=looked_up.step,
            seen=seen,
        )

    def _negatives(self, looked_up: LookedUp) -> NegativeSets:
        """Ready for scoring."""
        return replace(
            looked_up.negatives, vectors_nd=self.score.items(looked_up.negatives.vectors_nd)
        )

    def _weighed(self, looked_up: LookedUp, chosen: Positives, counts: Counts) -> WeighedPositives:
        return WeighedPositives(
            item_Xd=self.score.items(looked_up.vector_Xd),
            source_M=chosen.source_M,
            id_M=looked_up.row_X[chosen.source_M],
            query_M=chosen.query_M,
            weight_M=self.weights.of(chosen, counts),
        )

    def tokens(self, ids: KeyedJaggedTensor, item_N: Tensor) -> Tensor:
        """[N, d]: what the encoder takes of histories, one row of `ids` each: item vectors, side features added.

        Args:
            item_N: row ids of the items that `ids` stand for.
        """
        token_Nd, _ = self.lookup(ids)
        return token_Nd if self.features is None else token_Nd + self.features(item_N)

    def queries(self, histories: Jagged) -> PathQueries:
        """What every path asks for after the last position of each history.

        Args:
            histories: none empty; their vectors as `tokens` gives them.
        """
        states = replace(histories, vector_Nd=self._encode(histories))
        query_BKd = self.score.queries(ask_last(self.heads, self.baseline, states, self.paths))
        log_group_BK = query_BKd.new_zeros(query_BKd.shape[:2])
        if self.gate is not None:
            last_Bd = states.vector_Nd[states.offsets_B1[1:] - 1]
            log_group_BK = self.gate.log_probability(last_Bd)[:, self.item_set_K]
        return PathQueries(query_BKd, log_group_BK)

    def _encode(self, histories: Jagged) -> Tensor:
        reduced = self.training and self.precision != torch.float32
        with torch.autocast(histories.vector_Nd.device.type, self.precision, enabled=reduced):
            state_Nd: Tensor = self.encoder(histories)
        return state_Nd.float()
