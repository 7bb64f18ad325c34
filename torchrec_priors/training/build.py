"""Builds the model of a run, distributes it over the ranks and sets its initial values."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection

from torchrec_priors.baselines.baseline import as_priors, check_fusion, load_baseline
from torchrec_priors.data.as_trained import AsTrained
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.embedding.content import ItemContent
from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.features import FeatureTables, ItemFeature, load_features
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.item_table import Shard, fuse_optimizer, initialise_rows, item_table
from torchrec_priors.embedding.managed import ManagedRows, blocks_of, managed_table
from torchrec_priors.embedding.own_rows import OwnRows, own_rows
from torchrec_priors.embedding.plan import ModelPlan
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.errors import UserError
from torchrec_priors.heads.composition import check_budget, make_heads
from torchrec_priors.heads.nodes import Depth, nodes, say_backed_off
from torchrec_priors.loss import decision_weights, discount, path_weights, positive_weights
from torchrec_priors.model.behaviour import Behaviour
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.prepared.content import Content, read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.tokens import ItemTokens, read_tokens
from torchrec_priors.priors.joint import JointPaths
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.settings.table import TABLE
from torchrec_priors.training.catalogue import read_catalogue
from torchrec_priors.training.columns import encoder_columns, training_columns
from torchrec_priors.training.divided_llms import divide_language_models
from torchrec_priors.training.fits_memory import check_memory
from torchrec_priors.training.frequency import say_unseen, training_frequency
from torchrec_priors.training.memory import give_back_freed_memory, keep_freed_memory
from torchrec_priors.training.run.folder import TrainedOn
from torchrec_priors.training.run.paths import (
    Counted,
    count_positives,
    over_item_sets,
    path_names,
    read_paths,
)

log = logging.getLogger(__name__)

# The item LLM's parameters begin with it. DDP does not average their gradients, because these come
# after those of all parts of a batch (`step.py`).
ITEM_LLM = "content.reader."

_PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Built:
    """A distributed model, and the values that were computed to build it.

    Attributes:
        parallel: TorchRec's wrapper around the model; training steps and checkpoints use it.
        model: the model inside the wrapper; everything except training steps uses it.
        tables: the rows that this rank is responsible for, by the name of the table.
        ranks: the ranks that the model is distributed over.
        plan: how the tables are divided among the ranks.
        columns: the columns of the sequences that the encoder reads in addition to the items.
        training_columns: the columns that the encoder and the prior tree read in training.
        depths: the nodes of the prior tree that have adapters, for each depth of the tree.
        counted: the numbers of training positives and targets.
        seen_I: bool, whether each item occurs often enough in the training data to get its own row;
            None if this does not depend on how often an item occurs.
        for_training: whether the model is trained; otherwise it is only read.
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
    for_training: bool = True
    _index: list[GroupIndex] = field(default_factory=list)
    _described: list[bool] = field(default_factory=list)

    @property
    def positives_S(self) -> Tensor:
        """The number of training positives of each item set, int64 [S], over all its paths."""
        return over_item_sets(self.model.tree, self.counted.positives_K)

    @property
    def own(self) -> OwnRows:
        """The rows of the item table that this rank is responsible for."""
        return self.tables[TABLE]

    @property
    def shard(self) -> Shard:
        """A live view of the rows in `own`; it exists only if the table is sharded by rows."""
        assert self.own.live is not None, "other ranks have the rows: see `OwnRows.fetch`"
        return self.own.live

    def describe_items(self, folder: Path | None = None, identity: str = "") -> None:
        """Lets the item LLM read all items, unless this has been done with its present weights.

        Every rank must call it. Without an item LLM it does nothing.

        Args:
            folder: where vectors are kept, so that they need not be computed again; None to keep
                them in memory only.
            identity: names the weights of the model in this folder.
        """
        content = self.model.content
        if content is None or content.reader is None or self._described:
            return
        assert isinstance(content.reader, ItemLLM)
        vector_Mc = read_catalogue(content.reader, self.ranks, folder, identity)
        content.describe(vector_Mc)
        # A frozen item LLM never changes, and a model that is only read does not change either.
        if not content.is_trained or not self.for_training:
            self._described.append(True)

    def fetch_index(self) -> GroupIndex:
        """Returns the retrieval index over this rank's items, with the current values of the rows.

        Every rank must call it, because rows may have to be fetched from other ranks.
        """
        rows = self.model.item_rows
        block = self.own.fetch()
        retrieved = None
        self.describe_items()
        if self.model.content is not None:
            retrieved, block = self.model.content.candidates(
                block, self.ranks.rank, self.ranks.world
            )

        # A managed table gives rows to other items during training, so its index is built again.
        # Other tables keep the row of each item: their index only gets the current values.
        if isinstance(rows, ManagedRows):
            rows.refresh(blocks_of(self.model.table), self.ranks.total)
        elif self._index:
            return self._index[0].over(block)

        if retrieved is None:
            retrieved = rows.retrieved(self.own.first, self.own.last)
        index = GroupIndex(self.model.tree, block, retrieved)
        if rows.recommendable_I is not None:
            index.set_sizes = self.ranks.total(torch.tensor(index.own_sizes)).numpy()

        # The index is kept without the rows, so that these are not in memory twice.
        no_rows = block.rows.new_empty(0, block.rows.shape[1])
        self._index[:] = [index.over(Shard(no_rows, block.first))]
        return index


@dataclass(frozen=True)
class _Parts:
    """Everything that is computed before the model itself, which takes much more memory.

    Attributes:
        tree: the prior tree.
        rows: the map from items to rows of the item table.
        content: the content of items; None if there is none, or an item LLM makes it.
        tokens: the tokens of items' texts, for an item LLM; None without one.
        columns, training_columns, seen_I, counted, depths: see `Built`.
    """

    tree: PriorTree
    columns: tuple[str, ...]
    training_columns: tuple[str, ...]
    seen_I: np.ndarray | None
    rows: Rows
    content: Content | None
    tokens: ItemTokens | None
    counted: Counted
    depths: list[Depth]


def build_model(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    *,
    trained: TrainedOn | None = None,
    for_training: bool = True,
) -> Built:
    """Builds the model of a configuration. Every rank must call it.

    The initial values are the same on any number of ranks.

    Args:
        trained: what the run recorded when it started. If it is None, training positives and seen
            items are counted.
        for_training: False if the model will only be read, with weights from a checkpoint. The
            table then gets no initial values and no optimizer state.

    Raises:
        UserError: the configuration does not fit the data set, or needs more memory than this
            machine has.
    """
    joint = config.loss.softmax == "joint"
    if joint:
        _check_joint(config)
    elif config.evaluation.calibrated and not config.loss.gate:
        raise UserError("evaluation.calibrated needs a model with a gate: train with loss.gate=1")

    parts = _prepare_parts(config, data, ranks, trained, for_training)
    decides = bool(parts.tree.decided().any())
    if config.repeats.weight and not config.loss.gate and decides and not joint:
        raise UserError(
            "repeats.weight: the scores of heads for groups of items are compared with those of "
            "repeats, which needs a gate: set loss.gate=1"
        )
    items = None if trained is None else trained.items
    features = load_features(config.encoder.item_features, data, items)
    model = _make_model(config, data, ranks, parts, features)
    check_fusion(model.baseline, config.evaluation.fusion)

    if for_training:
        keep_freed_memory()
        for module in model.modules():
            if isinstance(module, EmbeddingCollection):
                fuse_optimizer(module, config.table.learning_rate)
    _move_dense(model, ranks.device)
    give_back_freed_memory()
    return _distribute(config, data, ranks, parts, model, for_training)


def _check_joint(config: RunConfig) -> None:
    """Raises UserError if other settings do not go with a joint softmax."""
    if config.baseline.name:
        raise UserError(
            "loss.softmax=joint is for prior heads, which a baseline model does not have: use "
            "loss.softmax=in_group, or remove baseline.name"
        )
    if not config.negatives.logq:
        raise UserError(
            "loss.softmax=joint adds the sums of several item sets, which needs unbiased sums: set "
            "negatives.logq=true"
        )
    if config.negatives.catalogue_share:
        raise UserError(
            "loss.softmax=joint already covers the whole catalogue: set negatives.catalogue_share=0"
        )


def _prepare_parts(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    trained: TrainedOn | None,
    for_training: bool,
) -> _Parts:
    """Prepares the parts of a model. All ranks count what the run has not recorded yet."""
    has_heads = not config.baseline.name
    has_adapters = has_heads and config.priors.adapters != "none"
    tree = tree_of(config, data, trained)
    if has_heads:
        check_budget(tree, config.model.dim, config.priors)
    columns_in_training = training_columns(config, data, tree)

    frequency = None
    seen_I = None if trained is None else trained.seen_I
    if trained is None and config.embedding.unseen not in ("own", "managed"):
        frequency = training_frequency(data, config.training, ranks)
        seen_I = frequency >= config.embedding.min_frequency

    content = None
    tokens = None
    if config.embedding.content:
        content = read_content(data, config.embedding.content)
    elif config.items.encoder:
        tokens = read_tokens(data, config.items.content)
    described_I = None
    described = content or tokens
    if described is not None:
        described_I = np.zeros(data.items, bool)
        described_I[described.item_M] = True

    rows: Rows
    if config.embedding.unseen == "managed":
        rows = ManagedRows(config.embedding, data.items)
    else:
        rows = ItemRows.of(config.embedding, seen_I, data.items, described_I)
    check_memory(config, data, tree, rows.rows, ranks, for_training=for_training)

    if trained is None:
        say_unseen(config.embedding, rows, frequency)
        counted = _count_on_all_ranks(config, data, ranks, tree, rows)
    else:
        counted = read_paths(trained.paths, tree)
        # Runs of an earlier version did not record the counts for each offset.
        if for_training and counted.by_offset is None:
            counted = _count_on_all_ranks(config, data, ranks, tree, rows)

    depths = []
    if has_adapters:
        depths = nodes(tree, counted.positives_K, config.priors.min_positives)
    if for_training:
        tree.say_what_is_left_out()
        if has_adapters:
            say_backed_off(tree, depths, config.priors.min_positives)

    return _Parts(
        tree=tree,
        columns=encoder_columns(config, data),
        training_columns=columns_in_training,
        seen_I=seen_I,
        rows=rows,
        content=content,
        tokens=tokens,
        counted=counted,
        depths=depths,
    )


def _make_model(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    parts: _Parts,
    features: list[ItemFeature],
) -> Recommender:
    """Creates the whole model in this process; its tables are on the meta device."""
    dim = config.model.dim
    context = config.model.context

    # The modules draw their initial values from torch's global generator when they are created, so
    # the order in which they are created matters: encoder, heads, then the others.
    torch.manual_seed(config.seed)
    encoder = load_encoder(config.encoder, dim, context, len(data.manifest.events))
    heads = make_heads(parts.tree, dim, config.priors, parts.depths)

    table: EmbeddingCollection | ManagedCollisionEmbeddingCollection
    if config.embedding.unseen == "managed":
        table = managed_table(config.embedding, dim)
    else:
        table = item_table(parts.rows.rows, dim)

    side_features = None
    if features:
        side_features = FeatureTables(features, dim, asks_once=config.sharding.dedup)

    content = None
    described = parts.content or parts.tokens
    if described is not None:
        assert isinstance(parts.rows, ItemRows)
        reader = None
        if parts.tokens is not None:
            reader = _item_llm(config, parts.tokens, ranks)
        content = ItemContent(
            described.item_M,
            None if parts.content is None else parts.content.vector_Mc,
            parts.rows,
            dim,
            ranks.device,
            std=config.table.init_std,
            id_dropout=config.embedding.id_dropout,
            seed=config.seed,
            reader=reader,
        )

    return Recommender(
        config.model,
        encoder,
        parts.tree,
        heads,
        table,
        side_features,
        config.loss.gate,
        load_baseline(config.baseline, dim, context),
        joint=JointPaths.of(parts.tree) if config.loss.softmax == "joint" else None,
        repeat_weight=config.repeats.weight,
        repeat_time_bias=config.repeats.time_bias,
        item_rows=parts.rows,
        content=content,
        behaviour=Behaviour(
            exchange=ranks.exchange(),
            precision=_PRECISION[config.training.precision],
            asks_once=config.sharding.dedup,
            sees_events=config.encoder.events,
            hides_seen=not config.negatives.seen,
            near_duplicates=config.negatives.near_duplicates,
        ),
    )


def _item_llm(config: RunConfig, tokens: ItemTokens, ranks: Ranks) -> ItemLLM:
    """Creates the item LLM in this process."""
    llm = ItemLLM(
        config.items,
        torch.from_numpy(tokens.token_V),
        torch.from_numpy(tokens.first_M1),
        tokens.info.dim,
        _PRECISION[config.training.precision],
    )
    llm.move_texts(ranks.device)
    return llm


def _distribute(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    parts: _Parts,
    model: Recommender,
    for_training: bool,
) -> Built:
    """Shards the tables over the ranks; for training, also sets their initial values."""
    sharding = config.sharding
    if not for_training:
        sharding = sharding.for_reading(ranks.device.type)
    for key in sharding.without_effect():
        log.warning("%s has no effect with the other settings of sharding", key)

    not_averaged = [name for name, _ in model.named_parameters() if name.startswith(ITEM_LLM)]
    if for_training and sharding.language_models and ranks.world > 1:
        not_averaged += divide_language_models(model, ranks)

    # Only a pipeline can fill a GPU's cache of rows before the step that reads them.
    managed = config.embedding.unseen == "managed"
    may_fill = config.training.pipeline in ("auto", "prefetch")
    parallel, plan = distribute(
        model,
        ranks.device,
        sharding,
        _lookups(config, data, parts.tree, ranks.world),
        timeout=ranks.timeout,
        prefetch=for_training and not managed and may_fill,
        not_averaged=not_averaged,
    )
    tables = own_rows(parallel, plan, ranks.device, ranks.side)
    if for_training:
        for number, table_rows in enumerate(tables.values()):
            for shard in table_rows.shards:
                initialise_rows(shard, config.seed, config.table.init_std, number, config.model.dim)

    inner = parallel.module
    assert isinstance(inner, Recommender)
    return Built(
        parallel=parallel,
        model=inner,
        tables=tables,
        ranks=ranks,
        plan=plan,
        columns=parts.columns,
        training_columns=parts.training_columns,
        depths=parts.depths,
        counted=parts.counted,
        seen_I=parts.seen_I,
        for_training=for_training,
    )


def _lookups(config: RunConfig, data: PreparedData, tree: PriorTree, world: int) -> int:
    """Estimates the number of ids that one rank looks up in the item table in one step."""
    settings = config.training
    tokens = settings.batch_tokens or settings.batch * config.model.context
    most_tokens = int(training_ends(data, settings).sum(dtype=np.int64))

    negatives = config.negatives.total or config.negatives.per_set * tree.item_sets
    most_negatives = int(tree.set_sizes.sum()) + tree.items

    ids = min(tokens, most_tokens) + min(negatives, most_negatives)
    return max(1, ids // world)


def _count_on_all_ranks(
    config: RunConfig, data: PreparedData, ranks: Ranks, tree: PriorTree, rows: Rows
) -> Counted:
    """Counts the positives and targets of an epoch; each rank counts its share of the users."""
    counts_of_rank = count_positives(
        tree,
        data,
        config.model.horizon,
        ranks.share,
        training_ends(data, config.training),
        has_row_I=rows.has_row_I,
    )
    return Counted.of(ranks.total(counts_of_rank))


def tree_of(config: RunConfig, data: PreparedData, trained: TrainedOn | None) -> PriorTree:
    """Loads the prior tree of a configuration.

    If a run has started, the tree has the paths that the run recorded. If the data set has grown
    since then, the tree has only the groups that existed when the run started.
    """
    priors = as_priors(config.baseline, config.priors)
    if trained is None:
        return load_tree(priors, data, config.model.horizon)

    as_trained = data if trained.groups is None else AsTrained(data, trained.groups)
    return load_tree(priors, as_trained, config.model.horizon, set(path_names(trained.paths)))


def _move_dense(model: nn.Module, device: torch.device) -> None:
    """Moves all modules except the tables, which stay on the meta device until they are sharded."""
    for child in model.children():
        if not isinstance(child, EmbeddingCollection | ManagedCollisionEmbeddingCollection):
            _move_dense(child, device)
    for tensor in (*model.parameters(recurse=False), *model.buffers(recurse=False)):
        tensor.data = tensor.data.to(device)


def set_loss_weights(built: Built, config: RunConfig) -> None:
    """Sets the weights that the loss gives to positives and to decisions of the gate.

    It also sets the gate's initial values. Both are computed from the counts of training positives.
    """
    counted = built.counted
    model = built.model
    assert counted.by_offset is not None

    positives_KT, targets_T = counted.by_offset
    weight_K = path_weights(config.loss, counted.positives_K)
    # A baseline has no paths: every target counts once, whichever of the queries it trains.
    if model.baseline is not None:
        positives_KT = targets_T[None]
        weight_K = torch.ones(1)

    discount_T = discount(config.loss.gamma, config.model.horizon)
    model.weights.positive_KT.copy_(positive_weights(positives_KT, targets_T, weight_K, discount_T))
    if model.joint is not None:
        # All paths have one softmax, so every target counts once, whichever path it belongs to.
        model.weights.positive_KT.copy_(discount_T.expand_as(model.weights.positive_KT))
    model.weights.decision_T.copy_(decision_weights(positives_KT, weight_K, discount_T))

    if model.gate is not None and model.joint is None:
        model.gate.start_from(built.positives_S / max(counted.targets, 1))
        if not bool(model.gate.gated_S.any()):
            log.warning(
                "loss.gate has no effect: no level of priors.tree restricts items,"
                " so there is nothing to decide"
            )
