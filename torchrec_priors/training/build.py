"""A run's model, distributed and initialised, and its optimizers."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_priors.baselines.baseline import as_priors, check_fusion, load_baseline
from torchrec_priors.config import RunConfig
from torchrec_priors.data.as_trained import AsTrained
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.features import FeatureTables, load_features
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.item_table import Shard, fuse_optimizer, initialise_rows, item_table
from torchrec_priors.embedding.managed import ManagedRows, blocks_of, managed_table
from torchrec_priors.embedding.own_rows import OwnRows, own_rows
from torchrec_priors.embedding.plan import ModelPlan
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.heads.composition import check_budget, make_heads
from torchrec_priors.heads.nodes import Depth, nodes, say_backed_off
from torchrec_priors.loss import decision_weights, discount, path_weights, positive_weights
from torchrec_priors.model import Recommender
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.settings.embedding import UnseenConfig
from torchrec_priors.settings.table import TABLE
from torchrec_priors.training.fits_memory import check_memory
from torchrec_priors.training.memory import give_back_freed_memory, keep_freed_memory
from torchrec_priors.training.run.folder import TrainedOn
from torchrec_priors.training.run.paths import (
    Counted,
    count_positives,
    over_item_sets,
    path_names,
    read_paths,
)
from torchrec_priors.training.run.seen import say_unseen, training_frequency

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A distributed model.

    Attributes:
        parallel: what is trained and checkpointed.
        model: the same model inside it, for everything but training steps.
        tables: this rank's part of every table.
        ranks: those it is distributed over.
        plan: how the tables are cut.
        columns: what the encoder asks for of the sequences, besides items.
        training_columns: what the encoder and the tree ask for in training.
        depths: the nodes of the tree that have adapters.
        counted: training positives and targets.
        seen_I: bool, items that were seen in training often enough; None where all have rows of their own.
    """

    parallel: DistributedModelParallel
    model: Recommender
    tables: dict[str, OwnRows]
    ranks: Ranks
    plan: ModelPlan
    columns: tuple[str, ...]
    training_columns: tuple[str, ...]
    depths: list[Depth]
    counted: Counted
    seen_I: np.ndarray | None
    _index: list[GroupIndex] = field(default_factory=list)

    @property
    def positives_S(self) -> Tensor:
        """int64 [S]: training positives of every item set, over its paths."""
        return over_item_sets(self.model.tree, self.counted.positives_K)

    @property
    def own(self) -> OwnRows:
        """The rows of the item table that this rank answers for."""
        return self.tables[TABLE]

    @property
    def shard(self) -> Shard:
        """The same rows in place, of a table that is cut row-wise."""
        assert self.own.live is not None, "the rows are with other ranks: see `OwnRows.fetch`"
        return self.own.live

    @property
    def index(self) -> GroupIndex:
        """What retrieval needs of the items that this rank answers for, with the rows as they are now. Every rank must
        ask for it alike."""
        rows = self.model.item_rows
        tree = self.model.tree
        block = self.own.fetch()
        if isinstance(rows, ManagedRows):
            rows.refresh(blocks_of(self.model.table), self.ranks.total)
        elif self._index:
            return self._index[0].over(block)
        index = GroupIndex(tree, block, rows.retrieved(self.own.first, self.own.last))
        if rows.recommendable_I is not None:
            index.set_sizes = self.ranks.total(torch.tensor(index.own_sizes)).numpy()
        self._index[:] = [
            index.over(Shard(block.rows.new_empty(0, block.rows.shape[1]), block.first))
        ]
        return index


def build_model(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    *,
    trained: TrainedOn | None = None,
    for_training: bool = True,
) -> Built:
    """The model of a configuration with its first values, the same on any number of ranks. Every rank must call it.

    Args:
        trained: what a run that was started recorded; without it training positives and seen items are counted.
        for_training: False where a checkpoint's weights are loaded at once and only read: the table has no first values
            and no optimizer state.
    """
    if config.evaluation.calibrated and not config.loss.gate:
        raise UserError("evaluation.calibrated needs a model with a gate: train with loss.gate=1")
    tree = tree_of(config, data, trained)
    if not config.baseline.name:
        check_budget(tree, config.model.dim, config.priors)
    training_columns = _training_columns(config, data, tree)
    seen_I = None if trained is None else trained.seen_I
    if trained is None and config.embedding.unseen not in ("own", "managed"):
        frequency = training_frequency(data, config.training, ranks)
        seen_I = frequency >= config.embedding.min_frequency
    managed = config.embedding.unseen == "managed"
    rows = _rows(config.embedding, seen_I, data.items)
    check_memory(config, data, tree, rows.rows, ranks, for_training=for_training)
    if trained is None:
        say_unseen(config.embedding, rows, frequency if seen_I is not None else None)
        counted = _counted(config, data, ranks, tree, rows)
    else:
        counted = read_paths(trained.paths, tree)
    if for_training and counted.by_offset is None:  # recorded by an earlier version
        counted = _counted(config, data, ranks, tree, rows)
    depths = (
        []
        if config.baseline.name
        else nodes(tree, counted.positives_K, config.priors.min_positives)
    )
    if for_training:
        tree.say_what_is_left_out()
    if for_training and not config.baseline.name:
        say_backed_off(tree, depths, config.priors.min_positives)
    features = load_features(
        config.encoder.item_features, data, None if trained is None else trained.items
    )
    columns = _columns(config, data)
    torch.manual_seed(config.seed)
    encoder = load_encoder(
        config.encoder, config.model.dim, config.model.context, len(data.manifest.events)
    )
    model = Recommender(
        config.model,
        encoder,
        tree,
        make_heads(tree, config.model.dim, config.priors, depths),
        managed_table(config.embedding, config.model.dim)
        if managed
        else item_table(rows.rows, config.model.dim),
        FeatureTables(features, config.model.dim) if features else None,
        config.loss.gate,
        load_baseline(config.baseline, config.model.dim, config.model.context),
    )
    check_fusion(model.baseline, config.evaluation.fusion)
    model.exchange = ranks.exchange()
    model.item_rows = rows
    model.asks_once = config.sharding.dedup
    if model.features is not None:
        model.features.asks_once = config.sharding.dedup
    model.sees_events = config.encoder.events
    model.hides_seen = not config.negatives.seen
    model.precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.training.precision]
    if for_training:
        keep_freed_memory()
    for module in model.modules() if for_training else ():
        if isinstance(module, EmbeddingCollection):
            fuse_optimizer(module, config.table.learning_rate)
    _move_dense(model, ranks.device)
    sharding = config.sharding if for_training else config.sharding.for_reading(ranks.device.type)
    for key in sharding.without_effect():
        log.warning("%s has no effect: nothing in sharding reads it", key)
    give_back_freed_memory()
    lookups = _lookups(config, data, tree, ranks.world)
    prefetch = for_training and not managed and config.training.pipeline in ("auto", "prefetch")
    parallel, plan = distribute(
        model, ranks.device, sharding, lookups, timeout=ranks.timeout, prefetch=prefetch
    )
    tables = own_rows(parallel, plan, ranks.device, ranks.side)
    if for_training:
        for number, own in enumerate(tables.values()):
            for shard in own.shards:
                initialise_rows(shard, config.seed, config.table.init_std, number, config.model.dim)
    inner = parallel.module
    assert isinstance(inner, Recommender)
    return Built(
        parallel=parallel,
        model=inner,
        tables=tables,
        ranks=ranks,
        plan=plan,
        columns=columns,
        training_columns=training_columns,
        depths=depths,
        counted=counted,
        seen_I=seen_I,
    )


def _lookups(config: RunConfig, data: PreparedData, tree: PriorTree, world: int) -> int:
    """About as many ids as a rank asks the item table for in a step."""
    settings = config.training
    tokens = settings.batch_tokens or settings.batch * config.model.context
    negatives = config.negatives.total or config.negatives.per_set * tree.item_sets
    there = (
        int(training_ends(data, settings).sum(dtype=np.int64)),
        int(tree.set_sizes.sum()) + tree.items,
    )
    return max(1, (min(tokens, there[0]) + min(negatives, there[1])) // world)


def _counted(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    tree: PriorTree,
    rows: ItemRows | ManagedRows,
) -> Counted:
    """Positives of an epoch; each rank counts its share of the users."""
    ends = training_ends(data, config.training)
    own = count_positives(
        tree, data, config.model.horizon, ranks.share, ends, has_row_I=rows.has_row_I
    )
    return Counted.of(ranks.total(own))


def tree_of(config: RunConfig, data: PreparedData, trained: TrainedOn | None) -> PriorTree:
    """The tree of a configuration; of a run that was started, with the heads that it has, and with its groups where its
    data has grown."""
    priors = as_priors(config.baseline, config.priors)
    if trained is None:
        return load_tree(priors, data, config.model.horizon)
    as_trained = data if trained.groups is None else AsTrained(data, trained.groups)
    return load_tree(priors, as_trained, config.model.horizon, set(path_names(trained.paths)))


def _rows(config: UnseenConfig, seen_I: np.ndarray | None, items: int) -> ItemRows | ManagedRows:
    return (
        ManagedRows(config, items)
        if config.unseen == "managed"
        else ItemRows.of(config, seen_I, items)
    )


def _columns(config: RunConfig, data: PreparedData) -> tuple[str, ...]:
    """What the encoder asks for of the sequences, besides items.

    Raises:
        UserError: the data set has no times, or no event types.
    """
    _check_times("encoder.time_bias", config.encoder.time_bias, data)
    if config.encoder.events and not data.manifest.events:
        raise UserError(
            f"encoder.events: data set '{data.manifest.name}' has no event types: set it to false"
        )
    asked = {"timestamps": config.encoder.time_bias, "events": config.encoder.events}
    return tuple(name for name, wanted in asked.items() if wanted)


def _check_times(key: str, needed: bool, data: PreparedData) -> None:
    if needed and not data.manifest.has_times:
        raise UserError(
            f"{key}: data set '{data.manifest.name}' knows the order alone: set it to false"
        )


def _training_columns(config: RunConfig, data: PreparedData, tree: PriorTree) -> tuple[str, ...]:
    """What encoder and tree ask for of the sequences in training, besides items.

    Raises:
        UserError: a prior needs events, and the data set has no event types; ties are to be shuffled, and it has no
            times.
    """
    _check_times("training.shuffle_ties", config.training.shuffle_ties, data)
    columns = _columns(config, data)
    if "events" not in tree.needs or "events" in columns:
        return columns
    if not data.manifest.events:
        names = ", ".join(
            f"'{level.name}'" for level in tree.levels if "events" in getattr(level, "needs", ())
        )
        raise UserError(
            f"priors.tree: {names} needs events, and data set '{data.manifest.name}' has no event types"
        )
    return (*columns, "events")


def _move_dense(model: nn.Module, device: torch.device) -> None:
    """Everything but the tables, which are on the meta device until they are sharded."""
    for child in model.children():
        if not isinstance(child, EmbeddingCollection | ManagedCollisionEmbeddingCollection):
            _move_dense(child, device)
    for tensor in (*model.parameters(recurse=False), *model.buffers(recurse=False)):
        tensor.data = tensor.data.to(device)


def set_loss_weights(built: Built, config: RunConfig) -> None:
    """Fills in what positives and the gate's decisions count for, and what the gate starts from."""
    counted = built.counted
    model = built.model
    assert counted.by_offset is not None

    positives_KT, targets_T = counted.by_offset
    weight_K = path_weights(config.loss, counted.positives_K)
    if model.baseline is not None:  # every target counts once, whichever query it goes to
        positives_KT = targets_T[None]
        weight_K = torch.ones(1)

    discount_T = discount(config.loss.gamma, config.model.horizon)
    model.weights.positive_KT.copy_(positive_weights(positives_KT, targets_T, weight_K, discount_T))
    model.weights.decision_T.copy_(decision_weights(positives_KT, weight_K, discount_T))

    if model.gate is not None:
        model.gate.start_from(built.positives_S / max(counted.targets, 1))
        if not bool(model.gate.gated_S.any()):
            log.warning(
                "loss.gate has no effect: no level of priors.tree restricts items, there is nothing to decide"
            )


class Optimizers:
    """Fused row-wise Adagrad on the table and AdamW, clipped, on the rest; learning rates follow from the step."""

    def __init__(self, built: Built, config: RunConfig) -> None:
        dense = dict(in_backward_optimizer_filter(built.parallel.named_parameters()))
        adamw = KeyedOptimizerWrapper(
            dense,
            lambda parameters: torch.optim.AdamW(
                parameters,
                lr=config.training.learning_rate,
                weight_decay=config.training.weight_decay,
            ),
        )
        self.dense = GradientClippingOptimizer(
            adamw, clipping=GradientClipping.NORM, max_gradient=config.training.clip_norm
        )
        self.fused = built.parallel.fused_optimizer
        self.all = CombinedOptimizer([("table", self.fused), ("dense", self.dense)])
        self._config = config

    def prepare(self, step: int) -> None:
        """Sets both rates for a step and clears gradients. The fused optimizer takes its rate here, before backward."""
        rate = self._config.training.rate(step)
        for group in self.fused.param_groups:
            group["lr"] = rate * self._config.table.learning_rate
        for group in self.dense.param_groups:
            group["lr"] = rate * self._config.training.learning_rate
        self.all.zero_grad()

    def step(self) -> None:
        self.all.step()

    def make_state(self) -> None:
        """Creates AdamW's state, which a checkpoint can only fill where it exists; loading overwrites all of it."""
        self.dense.init_state()
