"""A run's model, distributed and initialised, and its optimizers."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_priors.config import RunConfig
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.data.windows import Share
from torchrec_priors.embedding.features import FeatureTables, load_features
from torchrec_priors.embedding.table import (
    TABLE,
    Shard,
    distribute,
    fuse_optimizer,
    initialise_rows,
    item_table,
    own_shards,
)
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.loss import discount
from torchrec_priors.model import Recommender
from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree, load_tree
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.training.process import Ranks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A distributed model.

    Attributes:
        parallel: what is trained and checkpointed.
        model: the same model inside it, for everything but training steps.
        shards: this rank's rows of every table, live views.
        index: what retrieval needs of them.
        plan: how the table is sharded.
        columns: what the encoder asks for of the sequences, besides items.
    """

    parallel: DistributedModelParallel
    model: Recommender
    shards: dict[str, Shard]
    index: GroupIndex
    plan: ShardingPlan
    columns: tuple[str, ...]

    @property
    def shard(self) -> Shard:
        """This rank's rows of the item table."""
        return self.shards[TABLE]


def build_model(config: RunConfig, data: PreparedData, ranks: Ranks, *, for_training: bool = True) -> Built:
    """The model of a configuration with its first values, the same on any number of ranks.

    Args:
        for_training: False where a checkpoint's weights are loaded at once and only read: the table has no first values
            and no optimizer state.
    """
    tree = load_tree(config.priors, data, config.model.horizon)
    features = load_features(config.encoder.item_features, data)
    columns = _columns(config, data)
    torch.manual_seed(config.seed)
    model = Recommender(
        config.model,
        load_encoder(config.encoder, config.model.dim, config.model.context, len(data.manifest.events)),
        tree,
        item_table(data.items, config.model.dim),
        FeatureTables(features, config.model.dim) if features else None,
    )
    model.exchange = ranks.exchange()
    model.precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.training.precision]
    for module in model.modules() if for_training else ():
        if isinstance(module, EmbeddingCollection):
            fuse_optimizer(module, config.table.learning_rate)
    _move_dense(model, ranks.device)
    parallel, plan = distribute(model, ranks.device)
    shards = own_shards(parallel, config.model.dim)
    if for_training:
        for number, shard in enumerate(shards.values()):
            initialise_rows(shard, config.seed, config.table.init_std, table=number)
    inner = parallel.module
    assert isinstance(inner, Recommender)
    return Built(parallel, inner, shards, GroupIndex(tree, shards[TABLE]), plan, columns)


def _columns(config: RunConfig, data: PreparedData) -> tuple[str, ...]:
    """What the encoder asks for of the sequences, besides items.

    Raises:
        UserError: the data set has no times, or no event types.
    """
    if config.encoder.time_bias and not data.manifest.has_times:
        raise UserError(f"encoder.time_bias: data set '{data.manifest.name}' knows the order alone: set it to false")
    if config.encoder.events and not data.manifest.events:
        raise UserError(f"encoder.events: data set '{data.manifest.name}' has no event types: set it to false")
    asked = {"timestamps": config.encoder.time_bias, "events": config.encoder.events}
    return tuple(name for name, wanted in asked.items() if wanted)


def _move_dense(model: nn.Module, device: torch.device) -> None:
    """Everything but the tables, which are on the meta device until they are sharded."""
    for child in model.children():
        if not isinstance(child, EmbeddingCollection):
            _move_dense(child, device)
    for tensor in (*model.parameters(recurse=False), *model.buffers(recurse=False)):
        tensor.data = tensor.data.to(device)


def set_loss_weights(built: Built, config: RunConfig, data: PreparedData, ranks: Ranks) -> Tensor:
    """Fills in gamma's discount and w_k; returns the training positives of every path."""
    held_out = config.training.held_out(data)
    counts = ranks.total(count_positives(built.model.tree, data, config.model.horizon, ranks.share, held_out))
    built.model.weight_K.copy_(config.loss.weights(counts))
    built.model.discount_T.copy_(discount(config.loss.gamma, config.model.horizon))
    for path, count in zip(built.model.tree.paths, counts.tolist(), strict=True):
        if count == 0:
            log.info("prior path '%s' has no training positives: its head stays as its parent's", path.name)
    return counts


def count_positives(tree: PriorTree, data: PreparedData, horizon: int, share: Share, held_out: int) -> Tensor:
    """int64 [K]: positives of each path over this rank's share of an epoch; a user's last `held_out` items are none.

    A training item at index i of its user is a target at every offset t <= i, whatever the windows.
    """
    on_cpu = torch.zeros(len(tree.paths), dtype=torch.int64)
    for group in data.row_groups[share.rank :: share.world]:
        users = data.read_users(group)
        index = np.arange(len(users.items)) - np.repeat(users.starts[:-1], users.lengths)
        trained = index < np.repeat(users.lengths - held_out, users.lengths)
        for offset in range(1, horizon + 1):
            items = torch.from_numpy(users.items[trained & (index >= offset)]).to(tree.path_of_code.device)
            _, path = tree.assign(Targets(items, torch.full_like(items, offset)))
            on_cpu += torch.bincount(path.cpu(), minlength=len(tree.paths))
    return on_cpu


class Optimizers:
    """Fused row-wise Adagrad on the table and AdamW, clipped, on the rest; learning rates follow from the step."""

    def __init__(self, built: Built, config: RunConfig) -> None:
        dense = dict(in_backward_optimizer_filter(built.parallel.named_parameters()))
        adamw = KeyedOptimizerWrapper(
            dense,
            lambda parameters: torch.optim.AdamW(
                parameters, lr=config.training.learning_rate, weight_decay=config.training.weight_decay
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
