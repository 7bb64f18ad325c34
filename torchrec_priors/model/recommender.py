"""The whole model: the lookup, the encoder, the prior heads, and the loss of a batch.

The code of this module is the same for one rank (process) and for several. The table is sharded
elsewhere, and ranks exchange negatives and sums with the functions in `Behaviour.exchange`.

A training step first calls `begin`, which looks up all vectors of the batch. Then it calls
`forward` for each part of the batch (see `training.accumulate`). Serving calls `tokens`, then
`queries`.

    begin      batch --- lookup ---> vector_Xd of items, vectors_nd of negatives
               batch --- find_positives ---> positives --- all-reduce ---> counts of targets
    forward    vectors --- encoder ---> state_Nd --- heads ---> loss of Eq. 8 (`head_loss.py`)
                                        state_Nd --- gate ---> logit_NS --- gate_loss ---> loss
                                        state_Nd --- repeat_head ---> loss of repeats
    queries    vectors --- encoder ---> last state of each history --- heads ---> query_BKd

A token is an item of a context. An extended sequence consists of the items of one window: a
context, and the items that follow the context. An item set contains the items that a path may
retrieve; several paths may have the same item set. A row id is the number that `prepare` gives to
an item.

Shapes: N tokens, B histories, X items of extended sequences, n negatives, K paths, S item sets, T
offsets, P (token, path) pairs, M positives, d width.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.baselines.ask import ask_last, score_of
from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.data.batch import Batch, Contexts
from torchrec_priors.embedding.content import ItemContent
from torchrec_priors.embedding.dedup import StepIds
from torchrec_priors.embedding.described import describe_step
from torchrec_priors.embedding.features import FeatureTables
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.embedding.lookup import (
    Table,
    ids_of_step,
    look_up_step,
    requested,
    vectors_and_rows,
)
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.encoder.encoder import Encoder, Jagged
from torchrec_priors.heads.certainty import Certainty
from torchrec_priors.heads.gate import Gate
from torchrec_priors.heads.path_queries import PathQueries
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.heads.repeat_head import RepeatHead
from torchrec_priors.heads.repeat_shares import RepeatShares
from torchrec_priors.loss import Counts, LossWeights, Positives, count, find_positives, gate_loss
from torchrec_priors.model.behaviour import Behaviour
from torchrec_priors.model.head_loss import HeadLoss
from torchrec_priors.model.repeat_loss import repeat_loss
from torchrec_priors.model.started_step import StartedStep
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import WeighedPositives
from torchrec_priors.ops.products import products
from torchrec_priors.priors.joint import JointPaths
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.exchange import Exchange
from torchrec_priors.settings.model import ModelConfig


class Recommender(nn.Module):
    """The model: item table, encoder, heads and score."""

    item_set_K: Tensor
    first_path_S1: Tensor

    def __init__(
        self,
        config: ModelConfig,
        encoder: Encoder,
        tree: PriorTree,
        heads: PriorHeads,
        table: Table,
        features: FeatureTables | None,
        gate_weight: float = 0.0,
        baseline: nn.Module | None = None,
        *,
        joint: JointPaths | None = None,
        repeat_weight: float = 0.0,
        repeat_time_bias: bool = False,
        item_rows: Rows | None = None,
        content: ItemContent | None = None,
        behaviour: Behaviour = Behaviour(),
    ) -> None:
        """
        Args:
            config: the section `model` of the configuration.
            encoder: turns histories into states.
            tree: the prior tree.
            heads: turn states into queries.
            table: the item table.
            features: tables of side features (`encoder.item_features`); None if there are none.
            gate_weight: weight of the gate's loss; 0 for a model without a gate.
            baseline: a baseline model that computes the queries instead of `heads`; None to use
                `heads`.
            joint: the paths that compete in one softmax; None if each item set has its own. The
                gate's logits are then added to scores, if there is a gate.
            repeat_weight: weight of the repeat head's loss; 0 for a model without a repeat head.
            repeat_time_bias: whether the repeat head has a bias for the time since an interaction.
            item_rows: finds the table row of each item; by default, the number of the row is the
                item's row id.
            content: the content of items, which is added to their rows; None without content.
            behaviour: further settings.
        """
        super().__init__()
        self.config = config
        self.table = table
        self.features = features
        self.encoder = encoder
        self.tree = tree
        self.heads = heads
        self.baseline = baseline

        # A baseline model is trained on each target once, not once per path, with a query that it
        # chooses or computes itself. So its positives come from a tree without priors, which has a
        # single path.
        self.learnt_tree = tree
        if baseline is not None:
            self.learnt_tree = PriorTree([], tree.items)

        self.score = score_of(baseline, config.score)
        self.score.start_at(config.first_scale)
        self.certainty = Certainty(len(tree.item_set_K))
        self.gate = None
        if gate_weight:
            self.gate = Gate(config.dim, torch.from_numpy(tree.decided()))
        self.gate_weight = gate_weight
        self.joint = joint
        self.repeat_head = None
        if repeat_weight:
            self.repeat_head = RepeatHead(config.dim, config.context, repeat_time_bias)
        self.repeat_weight = repeat_weight

        self.paths = len(tree.item_set_K)
        self.weights = LossWeights(len(self.learnt_tree.item_set_K), config.horizon)
        item_set_K = torch.tensor(tree.item_set_K)
        self.register_buffer("item_set_K", item_set_K, persistent=False)
        first_path_S1 = torch.searchsorted(item_set_K, torch.arange(tree.item_sets + 1))
        self.register_buffer("first_path_S1", first_path_S1, persistent=False)

        self.item_rows: Rows = item_rows or ItemRows(tree.items, tree.items)
        self.content = content
        # The number of rows of the table, if some items only have content.
        self._rows_of_table: int | None = None
        if isinstance(item_rows, ItemRows) and item_rows.content_rows:
            self._rows_of_table = item_rows.rows
        self.behaviour = behaviour

    @property
    def exchange(self) -> Exchange:
        """The functions by which ranks exchange negatives and sums."""
        return self.behaviour.exchange

    # Lookups

    def item_vectors(self, ids: KeyedJaggedTensor, item_N: Tensor) -> Tensor:
        """Looks up the vectors of items, with content if there is any: [N, d].

        Args:
            ids: the ids that the items have in the table, as a jagged tensor with a single key.
            item_N: the row ids of the same items.
        """
        request = requested(ids, self.behaviour.asks_once, self._rows_of_table)
        id_Nd, _ = vectors_and_rows(self.table, request, ids)
        if self.content is None:
            return id_Nd
        vector_Nd: Tensor = self.content(id_Nd, item_N)
        return vector_Nd

    def item_factors(self, ids: KeyedJaggedTensor, item_N: Tensor) -> Tensor:
        """Looks up the factors of items that scores are computed with, [N, f].

        If content is mapped, the retrieval index must have been fetched before: that fits the map.

        Args:
            ids, item_N: see `item_vectors`.
        """
        return self.factors(self.item_vectors(ids, item_N), item_N)

    def factors(self, vector_Nd: Tensor, item_N: Tensor) -> Tensor:
        """Returns the factors of items that scores are computed with, [N, f].

        Args:
            vector_Nd: the vectors of the items.
            item_N: the row ids of the items.
        """
        factor_Nf = self.score.items(vector_Nd)
        if self.content is None:
            return factor_Nf
        return self.content.with_mapped(factor_Nf, item_N)

    def step_ids(self, batch: Batch) -> StepIds:
        """Returns the ids that `look_up` looks up for a batch."""
        return ids_of_step(batch, self.features, self.behaviour.asks_once, self._rows_of_table)

    def look_up(self, batch: Batch, ids: StepIds | None = None) -> LookedUp:
        """Looks up all vectors of a step: items, negatives and side features.

        Args:
            batch: the batch of this rank.
            ids: the result of `step_ids`, if it has already been computed.
        """
        if ids is None:
            ids = self.step_ids(batch)
        return look_up_step(batch, ids, self.table, self.features, self.exchange)

    # Training

    def begin(
        self,
        batch: Batch,
        *,
        look_up: Callable[[Batch], LookedUp] | None = None,
        announce: Callable[[str], None] = lambda _: None,
    ) -> StartedStep:
        """Looks up the vectors of a batch, and counts the targets of all ranks.

        Every rank must call it.

        Args:
            batch: the batch of this rank.
            look_up: a function to call instead of the method `look_up`.
            announce: called before each collective, with a name for what follows.
        """
        announce("lookup (all-to-all)")
        looked_up = (look_up or self.look_up)(batch)
        if self.content is not None and self.content.is_trained:
            announce("texts of items (item LLM)")
            described = describe_step(self.content, batch, self.exchange)
            looked_up = replace(looked_up, described=described)

        announce("numbers of targets (all-reduce)")
        positives = [self.positives(looked_up, part) for part in batch.parts]
        return StartedStep(looked_up, batch.parts, positives, self._counts(positives))

    def positives(self, looked_up: LookedUp, part: Contexts) -> Positives:
        """Returns the positives of a part."""
        return find_positives(
            self.learnt_tree,
            looked_up.item_X,
            part.context_N,
            part.end_N,
            self.config.horizon,
            event_X=looked_up.event_X,
            user_N=part.user_N,
            trained_X=self.item_rows.trained(looked_up.row_X),
        )

    def _counts(self, positives: list[Positives]) -> Counts:
        """Counts the targets of the global batch. Every rank must call it."""
        horizon = self.config.horizon
        part_counts = [count(part, horizon) for part in positives]
        zeros = torch.zeros(2, horizon, dtype=torch.int64, device=self.item_set_K.device)
        trained_T, target_T = self.exchange.total(sum(part_counts, start=zeros))
        return Counts(trained_T, target_T)

    def forward(self, step: StartedStep, number: int) -> tuple[Tensor, Tensor]:
        """Returns a part's share of the loss, and three sums for each head.

        The sums are those of `Certainty.sums`, [3, K].

        The loss is that of Eq. 8 or of the baseline model. The weighted losses of the gate (L_gate
        in `loss.py`) and of the repeat head are added to it, if the model has them. The share is
        multiplied by the number of ranks. Ranks average their gradients, so the average is then the
        gradient of the whole loss.

        Args:
            step: the result of `begin`.
            number: index of the part.
        """
        looked_up = step.looked_up
        if self.content is not None:
            looked_up = looked_up.with_content(self.content, trains=self.training)
        part = step.parts[number]
        positives = step.positives[number]

        histories = self._histories(looked_up, part)
        states = replace(histories, vector_Nd=self.states(histories))

        # With a repeat head, the prior heads and the gate learn only new targets.
        new_NT = None
        loss_of_repeats = None
        if self.repeat_head is not None:
            weight_T = self.weights.of_targets(step.counts)
            new_NT, loss_of_repeats = repeat_loss(
                self.repeat_head, looked_up.item_X, part, histories, states, weight_T
            )
            positives = positives.new(new_NT)

        learnt = self._learn(looked_up, part, states, positives.trained(), step.counts)
        loss = learnt.loss
        if self.gate is not None and self.joint is None:
            loss = loss + self.gate_weight * gate_loss(
                self.gate(states.vector_Nd),
                self.gate.gated_S,
                positives,
                self.item_set_K,
                self.weights.of_targets(step.counts),
                new_NT,
            )
        if loss_of_repeats is not None:
            loss = loss + self.repeat_weight * loss_of_repeats

        sums = self.certainty.sums(learnt.nll_M, learnt.path_M, self.paths)
        return loss * self.exchange.ranks, sums

    def _histories(self, looked_up: LookedUp, part: Contexts) -> Jagged:
        """Returns the contexts of a part in the form that the encoder reads."""
        token_Nd = looked_up.vector_Xd.index_select(0, part.context_N)
        if looked_up.beside_Nd is not None:
            last = part.first + len(token_Nd)
            token_Nd = token_Nd + looked_up.beside_Nd[part.first : last]

        event_N = part.event_N if self.behaviour.sees_events else None
        return Jagged(token_Nd, part.offsets_B1, part.time_N, event_N, part.dropout)

    def _learn(
        self,
        looked_up: LookedUp,
        part: Contexts,
        states: Jagged,
        positives: Positives,
        counts: Counts,
    ) -> Learnt:
        """Computes Eq. 8 with the prior heads, or the loss of the baseline model."""
        weighed = WeighedPositives(
            item_Xd=self.score.items(looked_up.vector_Xd),
            source_M=positives.source_M,
            id_M=looked_up.row_X[positives.source_M],
            query_M=positives.query_M,
            weight_M=self.weights.of(positives, counts),
        )
        negatives = looked_up.negatives
        seen = None
        if self.behaviour.hides_seen:
            row_N = looked_up.row_X[part.context_N]
            seen = SeenItems(row_N, part.offsets_B1, negatives)

        learning = Learning(
            token_Q=positives.token_P,
            vector_Xd=looked_up.vector_Xd,
            positives=weighed,
            offset_M=positives.offset_M,
            negatives=replace(negatives, vectors_nd=self.score.items(negatives.vectors_nd)),
            score=self.score,
            positions=counts.target_T[0],
            step=looked_up.step,
            seen=seen,
        )
        if self.baseline is None:
            with products(self.behaviour.products):
                return self._head_loss().of(states.vector_Nd, positives, learning)
        learnt: Learnt = self.baseline.learn(states, learning)  # type: ignore[operator]
        return learnt

    def _head_loss(self) -> HeadLoss:
        return HeadLoss(
            heads=self.heads,
            tree=self.tree,
            item_set_K=self.item_set_K,
            first_path_S1=self.first_path_S1,
            joint=self.joint,
            gate=self.gate,
            near_duplicates=self.behaviour.near_duplicates,
        )

    # Serving

    def tokens(self, ids: KeyedJaggedTensor, item_N: Tensor) -> Tensor:
        """Returns the encoder's input, [N, d]: item vectors with side features added.

        Args:
            ids: the ids that the items have in the table, as a jagged tensor with one row for each
                history.
            item_N: the row ids of the same items, one history after another.
        """
        token_Nd = self.item_vectors(ids, item_N)
        if self.features is None:
            return token_Nd
        return token_Nd + self.features(item_N)

    def queries(self, histories: Jagged) -> PathQueries:
        """Returns the query of every path at the last position of each history.

        Args:
            histories: histories with vectors from `tokens`. None of them may be empty.
        """
        return self.queries_at(histories, self.states(histories))

    def queries_at(self, histories: Jagged, state_Nd: Tensor) -> PathQueries:
        """Returns the query of every path at the last position of each history.

        Args:
            histories: see `queries`.
            state_Nd: the states of all their positions.
        """
        states = replace(histories, vector_Nd=state_Nd)
        query_BKd = self.score.queries(ask_last(self.heads, self.baseline, states, self.paths))

        log_group_BK = query_BKd.new_zeros(query_BKd.shape[:2])
        if self.gate is not None:
            last_Bd = states.vector_Nd[states.offsets_B1[1:] - 1]
            log_group_BS = self.gate.log_probability(last_Bd)
            if self.joint is not None:
                log_group_BS = self.gate(last_Bd)
            log_group_BK = log_group_BS[:, self.item_set_K]

        repeats = None
        if self.repeat_head is not None:
            logit_B, log_share_N = self.repeat_head.last_shares(
                states.vector_Nd, histories.vector_Nd, states.offsets_B1, histories.time_N
            )
            repeats = RepeatShares(logit_B, log_share_N, states.offsets_B1.diff())
        return PathQueries(query_BKd, log_group_BK, repeats)

    def states(self, histories: Jagged) -> Tensor:
        """Returns the states of all positions, float32 [N, d]."""
        precision = self.behaviour.precision
        reduced = self.training and precision != torch.float32
        if not reduced and not torch.is_autocast_enabled(histories.vector_Nd.device.type):
            whole_Nd: Tensor = self.encoder(histories)
            return whole_Nd.float()
        with torch.autocast(histories.vector_Nd.device.type, precision, enabled=reduced):
            state_Nd: Tensor = self.encoder(histories)
        return state_Nd.float()
