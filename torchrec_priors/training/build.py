"""Builds the model of a run, distributes it over the ranks and sets its initial values."""

import logging

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection

from torchrec_priors.baselines.baseline import check_fusion, load_baseline
from torchrec_priors.common.memory import give_back_freed_memory, keep_freed_memory
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.embedding.content import ItemContent
from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.features import FeatureTables, ItemFeature, load_features
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.item_table import fuse_optimizer, initialise_rows, item_table
from torchrec_priors.embedding.managed.table import managed_table
from torchrec_priors.embedding.mapped_items import MappedItems
from torchrec_priors.embedding.own_rows import own_rows
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.errors import UserError
from torchrec_priors.heads.composition import make_heads
from torchrec_priors.model.behaviour import Behaviour
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.tokens import ItemTokens
from torchrec_priors.priors.joint import JointPaths
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.built import ITEM_LLM, Built
from torchrec_priors.training.divided_llms import divide_language_models
from torchrec_priors.training.model_parts import ModelParts, prepare_parts
from torchrec_priors.training.run.folder import TrainedOn

log = logging.getLogger(__name__)

_PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    if config.loss.softmax == "joint":
        _check_joint(config)
    elif config.evaluation.calibrated and not config.loss.gate:
        raise UserError("evaluation.calibrated needs a model with a gate: train with loss.gate=1")

    parts = prepare_parts(config, data, ranks, trained, for_training)
    _check_repeats(config, parts.tree)
    items = None if trained is None else trained.items
    features = load_features(config.encoder.item_features, data, items)
    model = _make_model(config, data, ranks, parts, features)
    check_fusion(model.baseline, config.evaluation.fusion)

    if for_training:
        keep_freed_memory(of_any_size=True)
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


def _check_repeats(config: RunConfig, tree: PriorTree) -> None:
    """Raises UserError if the scores of heads cannot be compared with those of repeats."""
    in_groups = config.loss.softmax != "joint" and bool(tree.decided().any())
    if config.repeats.weight and not config.loss.gate and in_groups:
        raise UserError(
            "repeats.weight: the scores of heads for groups of items are compared with those of "
            "repeats, which needs a gate: set loss.gate=1"
        )


def _make_model(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    parts: ModelParts,
    features: list[ItemFeature],
) -> Recommender:
    """Creates the whole model in this process; its tables are on the meta device."""
    dim = config.model.dim
    context = config.model.context

    # The modules draw their initial values from torch's global generator when they are created, so
    # the order in which they are created matters: encoder, heads, tables, content, then the others.
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

    content = _item_content(config, data, parts, ranks)
    baseline = load_baseline(config.baseline, dim, context)
    return Recommender(
        config.model,
        encoder,
        parts.tree,
        heads,
        table,
        side_features,
        config.loss.gate,
        baseline,
        joint=JointPaths.of(parts.tree) if config.loss.softmax == "joint" else None,
        repeat_weight=config.repeats.weight,
        repeat_time_bias=config.repeats.time_bias,
        item_rows=parts.rows,
        content=content,
        behaviour=Behaviour(
            exchange=ranks.exchange(),
            precision=_PRECISION[config.training.precision],
            products=config.training.products,
            asks_once=config.sharding.dedup,
            sees_events=config.encoder.events,
            hides_seen=not config.negatives.seen,
            near_duplicates=config.negatives.near_duplicates,
        ),
    )


def _item_content(
    config: RunConfig, data: PreparedData, parts: ModelParts, ranks: Ranks
) -> ItemContent | None:
    """Creates the content of items; None if they have none."""
    described = parts.content or parts.tokens
    if described is None:
        return None

    assert isinstance(parts.rows, ItemRows)
    reader = None
    if parts.tokens is not None:
        reader = _item_llm(config, parts.tokens, ranks)
    mapped = None
    if config.embedding.map_content:
        frequency_I = data.catalogue(["frequency"])["frequency"].to_numpy()
        mapped = MappedItems(described.item_M, parts.rows, frequency_I, ranks.device)
    return ItemContent(
        described.item_M,
        None if parts.content is None else parts.content.vector_Mc,
        parts.rows,
        config.model.dim,
        ranks.device,
        std=config.table.init_std,
        id_dropout=config.embedding.id_dropout,
        seed=config.seed,
        mapped=mapped,
        reader=reader,
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
    parts: ModelParts,
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


def _move_dense(model: nn.Module, device: torch.device) -> None:
    """Moves all modules except the tables, which stay on the meta device until they are sharded."""
    for child in model.children():
        if not isinstance(child, EmbeddingCollection | ManagedCollisionEmbeddingCollection):
            _move_dense(child, device)
    for tensor in (*model.parameters(recurse=False), *model.buffers(recurse=False)):
        tensor.data = tensor.data.to(device)
