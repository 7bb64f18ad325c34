"""The whole model: the lookup, the encoder, the prior heads, and the loss of a batch.

The code of this module is the same for one rank (process) and for several. The table is sharded
elsewhere, and ranks exchange negatives and sums with the functions in `Behaviour.exchange`.

A training step first calls `begin`, which looks up all vectors of the batch. Then it calls
`forward` for each part of the batch (see `training.accumulate`). Serving calls `tokens`, then
`queries`.

    begin      batch --- lookup ---> vector_Xd of items, vectors_nd of negatives
               batch --- find_positives ---> positives --- all-reduce ---> counts of targets
    forward    vectors --- encoder ---> state_Nd --- heads ---> query_Pd --- in_group_loss ---> loss
                                        state_Nd --- gate ---> logit_NS --- gate_loss ---> loss
                   or   state_Nd --- heads, gate ---> query_Pd, bias_P --- joint_loss ---> loss
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
from dataclasses import dataclass, field, replace

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
from torchrec_priors.heads.joint_rows import JointRows
from torchrec_priors.heads.path_queries import PathQueries
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.heads.repeat_head import RepeatHead, find_repeats
from torchrec_priors.heads.repeat_shares import RepeatShares
from torchrec_priors.loss import Counts, LossWeights, Positives, count, find_positives, gate_loss
from torchrec_priors.ops.gpu_kernel import has_kernels
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, QuerySets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss
from torchrec_priors.ops.joint_softmax import JointQueries, joint_loss
from torchrec_priors.ops.near_duplicates import hide_near_duplicates
from torchrec_priors.priors.joint import JointPaths
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.exchange import Exchange
from torchrec_priors.settings.model import ModelConfig


@dataclass(frozen=True)
class StartedStep:
    """A batch after `begin`: its vectors have been looked up, and all ranks' targets counted.

    Attributes:
        looked_up: vectors of the batch's items, negatives and side features.
        parts: the contexts of each part of the batch.
        positives: positives of each part.
        counts: counts of targets in the global batch, i.e. in the batches of all ranks.
    """

    looked_up: LookedUp
    parts: list[Contexts]
    positives: list[Positives]
    counts: Counts


@dataclass(frozen=True)
class Behaviour:
    """Settings of training and of table lookups, other than sizes.

    Attributes:
        exchange: the functions by which ranks exchange negatives and sums; the default is for a
            single process.
        precision: dtype of the encoder's matrix products in training.
        asks_once: whether an id that occurs several times is looked up only once.
        sees_events: whether the encoder reads events. The prior tree may read them even if the
            encoder does not.
        hides_seen: whether items that the user has already seen are left out of the negatives.
        near_duplicates: negatives with a larger cosine with a positive are left out; 1 for none.
    """

    exchange: Exchange = field(default_factory=Exchange)
    precision: torch.dtype = torch.float32
    asks_once: bool = False
    sees_events: bool = False
    hides_seen: bool = False
    near_duplicates: float = 1.0


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

    def lookup(self, ids: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """Looks up ids. Returns the row of each id, [ids, d], and its number, [ids].

        Args:
            ids: ids of items, as a jagged tensor with a single key.
        """
        request = requested(ids, self.behaviour.asks_once, self._rows_of_table)
        return vectors_and_rows(self.table, request, ids)

    def item_vectors(self, ids: KeyedJaggedTensor, item_N: Tensor) -> Tensor:
        """Looks up the vectors of items, with content if there is any: [N, d].

        Args:
            ids: the ids that the items have in the table, as a jagged tensor with a single key.
            item_N: the row ids of the same items.
        """
        id_Nd, _ = self.lookup(ids)
        if self.content is None:
            return id_Nd
        vector_Nd: Tensor = self.content(id_Nd, item_N)
        return vector_Nd

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
        looked_up = self._with_content(step.looked_up)
        part = step.parts[number]
        positives = step.positives[number]

        histories = self._histories(looked_up, part)
        states = replace(histories, vector_Nd=self.states(histories))

        # A target is new if its item is not in the context up to the token. With a repeat head, the
        # prior heads and the gate learn only new targets.
        new_NT = None
        loss_of_repeats = None
        if self.repeat_head is not None:
            new_NT, loss_of_repeats = self._learn_repeats(looked_up, part, histories, states, step)
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

    def _with_content(self, looked_up: LookedUp) -> LookedUp:
        """Adds content to the vectors of items and negatives, which are rows of the table so far.

        It is done in `forward`, where DDP averages the gradients of the projection over ranks.
        """
        if self.content is None:
            return looked_up
        negatives = looked_up.negatives
        items = len(looked_up.item_X)
        id_Nd = torch.cat([looked_up.vector_Xd, negatives.vectors_nd])
        item_N = torch.cat([looked_up.item_X, self.content.items_of(negatives.ids_n)])

        step = looked_up.step if self.training else None
        described = looked_up.described
        content_Nc = None if described is None else described.content()
        vector_Nd = self.content(id_Nd, item_N, step, content_Nc)
        return replace(
            looked_up,
            vector_Xd=vector_Nd[:items],
            negatives=replace(negatives, vectors_nd=vector_Nd[items:]),
        )

    def _learn_repeats(
        self,
        looked_up: LookedUp,
        part: Contexts,
        histories: Jagged,
        states: Jagged,
        step: StartedStep,
    ) -> tuple[Tensor, Tensor]:
        """Finds the new targets, and computes the part's share of the repeat head's loss.

        A target has the same weight as in L_gate (see `loss.py`).

        Returns:
            bool [N, T], whether a target exists and is new; and the share of the loss.
        """
        assert self.repeat_head is not None
        targets = find_repeats(
            looked_up.item_X, part.context_N, part.end_N, part.offsets_B1, self.config.horizon
        )
        loss_M = self.repeat_head.loss(
            states.vector_Nd, histories.vector_Nd, part.offsets_B1, targets, part.time_N
        )
        weight_T = self.weights.of_targets(step.counts)
        return targets.new_NT, (weight_T[targets.offset_M - 1] * loss_M).sum()

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
        seen = None
        if self.behaviour.hides_seen:
            row_N = looked_up.row_X[part.context_N]
            seen = SeenItems(row_N, part.offsets_B1, looked_up.negatives)

        if self.baseline is None:
            return self._learn_heads(looked_up, states.vector_Nd, positives, weighed, seen)

        learning = Learning(
            token_Q=positives.token_P,
            vector_Xd=looked_up.vector_Xd,
            positives=weighed,
            offset_M=positives.offset_M,
            negatives=self._negatives(looked_up),
            score=self.score,
            positions=counts.target_T[0],
            step=looked_up.step,
            seen=seen,
        )
        learnt: Learnt = self.baseline.learn(states, learning)  # type: ignore[operator]
        return learnt

    def _learn_heads(
        self,
        looked_up: LookedUp,
        state_Nd: Tensor,
        positives: Positives,
        weighed: WeighedPositives,
        seen: SeenItems | None,
    ) -> Learnt:
        """Computes Eq. 8 with the prior heads."""
        if self.joint is not None:
            return self._learn_jointly(looked_up, state_Nd, positives, weighed, seen, self.joint)

        query_Pd = self.heads(state_Nd, positives.token_P, positives.path_P)
        query_Pd = self.score.queries(query_Pd)

        sets = self._sets_of(positives.path_P)
        hidden = None
        if seen is not None:
            hidden = seen.hidden(positives.token_P, sets, weighed)
        negatives = self._negatives(looked_up)
        threshold = self.behaviour.near_duplicates
        if threshold < 1:
            hidden = hide_near_duplicates(sets, weighed, negatives, threshold, hidden)

        loss, nll_M = in_group_loss(query_Pd, sets, weighed, negatives, hidden)
        return Learnt(loss, nll_M, positives.path_M)

    def _learn_jointly(
        self,
        looked_up: LookedUp,
        state_Nd: Tensor,
        positives: Positives,
        weighed: WeighedPositives,
        seen: SeenItems | None,
        joint: JointPaths,
    ) -> Learnt:
        """Computes Eq. 8 with one softmax over the items of all heads, instead of Eq. 7."""
        rows = JointRows.of(
            joint,
            self.tree.item_set_K,
            positives.token_P[positives.query_M],
            positives.path_M,
            len(state_Nd),
        )
        set_P = self.item_set_K[rows.path_P]
        query_Pd = self.score.queries(self.heads(state_Nd, rows.token_P, rows.path_P))
        bias_P = query_Pd.new_zeros(len(query_Pd))
        if self.gate is not None:
            bias_P = self.gate(state_Nd)[rows.token_P, set_P]

        weighed = replace(weighed.chosen(rows.order_M), query_M=rows.query_M)
        queries = JointQueries(query_Pd, bias_P, set_P, rows.groups, rows.row_M)
        hidden = None
        if seen is not None:
            counts_S = torch.bincount(set_P, minlength=self.tree.item_sets).tolist()
            hidden = seen.hidden(rows.token_P, counts_S, weighed)

        loss, nll_M = joint_loss(queries, weighed, self._negatives(looked_up), hidden)
        return Learnt(loss, nll_M, positives.path_M[rows.order_M])

    def _sets_of(self, path_P: Tensor) -> list[int] | QuerySets:
        """Returns the number of queries of each item set; on a GPU, the item set of each query.

        Args:
            path_P: the path of each query, ascending. So item sets ascend, too.
        """
        set_P = self.item_set_K[path_P]
        if has_kernels(path_P):
            return QuerySets(set_P, torch.searchsorted(path_P, self.first_path_S1))
        counts_S: list[int] = torch.bincount(set_P, minlength=self.tree.item_sets).tolist()
        return counts_S

    def _negatives(self, looked_up: LookedUp) -> NegativeSets:
        """Returns the negatives of a step, with vectors that are ready for scoring."""
        vectors_nd = self.score.items(looked_up.negatives.vectors_nd)
        return replace(looked_up.negatives, vectors_nd=vectors_nd)

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
