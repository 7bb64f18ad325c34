"""Training steps of a shape on one device: the product's own step, with a plain table.

Model, batches, negatives, loss and step are those of `train`. Only the table, the wrapper that
averages gradients over ranks, and the clipping of gradients are replaced, because they are
TorchRec's.

Suffixes of names: K paths, T offsets.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.bench.drawn_log import EVENTS, DrawnLog
from torchrec_priors.bench.flops import training_flops
from torchrec_priors.bench.gpu.plain_table import PlainTable
from torchrec_priors.bench.shapes import Shape
from torchrec_priors.data.batch import Batch, make_batch
from torchrec_priors.data.chunks import ranges
from torchrec_priors.data.windows import Windows
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.heads.composition import make_heads
from torchrec_priors.heads.nodes import nodes
from torchrec_priors.loss import (
    count,
    decision_weights,
    discount,
    find_positives,
    path_weights,
    positive_weights,
)
from torchrec_priors.model.behaviour import Behaviour
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.model.started_step import StartedStep
from torchrec_priors.priors.event import EventPrior
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.prior import Memberships, Prior
from torchrec_priors.priors.temporal import TemporalPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.sampling.group_sampler import GroupSampler, OwnItems
from torchrec_priors.settings.encoder import EncoderConfig
from torchrec_priors.settings.loss import LossConfig
from torchrec_priors.settings.model import ModelConfig
from torchrec_priors.settings.negatives import NegativesConfig
from torchrec_priors.settings.priors import PriorsConfig
from torchrec_priors.settings.table import TableConfig
from torchrec_priors.settings.training import TrainingConfig
from torchrec_priors.training.run.paths import over_item_sets
from torchrec_priors.training.step import StepResult, step

# As in `training.py`: every path has a head, and adapters are not zeros.
_PRIORS = {"priors.min_positives": 0, "priors.init_std": 0.02}


@dataclass(frozen=True)
class Sections:
    """The sections of a shape's configuration that a step reads."""

    model: ModelConfig
    encoder: EncoderConfig
    priors: PriorsConfig
    negatives: NegativesConfig
    training: TrainingConfig
    loss: LossConfig
    table: TableConfig

    @classmethod
    def of(cls, shape: Shape, dropout: float) -> "Sections":
        """Makes the sections without checks of their ranges, which need a library."""
        given = shape.config({**_PRIORS, "encoder.dropout": dropout})
        return cls(
            ModelConfig(**given["model"]),
            EncoderConfig(**given["encoder"]),
            PriorsConfig(**given["priors"]),
            NegativesConfig(**given["negatives"]),
            TrainingConfig(**given["training"]),
            LossConfig(),
            TableConfig(),
        )


class PlainTraining:
    """A model of a shape on one device, and the batches of its steps.

    Attributes:
        model: the model.
        device: the device that it is on.
    """

    def __init__(
        self,
        shape: Shape,
        log: DrawnLog,
        rows_Rd: Tensor,
        *,
        precision: torch.dtype = torch.float32,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            shape: the sizes.
            log: the log of the shape.
            rows_Rd: the item vectors, which training changes.
            precision: dtype of the encoder's products.
            dropout: `encoder.dropout`.
            seed: the seed of initial values, negatives and dropout.
        """
        sections = Sections.of(shape, dropout)
        tree = tree_of(shape, log)
        self._sections = sections
        self._seed = seed
        self.device = torch.device("cpu")

        # In this order, the initial values are those of `build_model`.
        torch.manual_seed(seed)
        encoder = load_encoder(sections.encoder, shape.dim, shape.context, len(EVENTS))
        heads = make_heads(tree, shape.dim, sections.priors, nodes(tree))
        self._table = PlainTable(rows_Rd, sections.table.learning_rate)
        self.model = Recommender(
            sections.model,
            encoder,
            tree,
            heads,
            cast(Any, self._table),
            None,
            behaviour=Behaviour(precision=precision),
        )
        self.model.train()

        self._windows = _windows(shape, log, tree)
        positives_K = self._set_loss_weights(log)
        self._sampler = _sampler(tree, sections.negatives, positives_K, seed)
        self._use(_Optimizers(self.model, self._table, sections))

    def batch(self, number: int) -> Batch:
        """Makes the batch of a step in the host's memory."""
        draw = self._sampler.draw(number)
        batch = make_batch(self._windows, draw, feature=FEATURE, seed=self._seed)
        return batch.pinned() if self.device.type == "cuda" else batch

    def step(self, batch: Batch) -> StepResult:
        """Copies a batch to the device, and trains the model on it."""
        return step(cast(Any, self._built), cast(Any, self._optimizers), batch.to(self.device))

    def move(self, device: torch.device) -> None:
        """Moves the model to a device. Steps before it do not count."""
        self.device = device
        self.model.to(device)
        self._use(_Optimizers(self.model, self._table, self._sections))

    def flops(self, batch: Batch) -> float:
        """Returns the FLOPs that a step needs; the model must be on the CPU."""
        return training_flops(self.model, batch)

    @property
    def tokens(self) -> int:
        """The number of positions that predict in a step."""
        return int(self._windows.contexts.sum())

    def _use(self, optimizers: "_Optimizers") -> None:
        self._optimizers = optimizers
        self._built = SimpleNamespace(
            model=self.model,
            parallel=_Alone(self.model),
            ranks=SimpleNamespace(where=SimpleNamespace()),
        )

    def _set_loss_weights(self, log: DrawnLog) -> Tensor:
        """Sets the weights of the loss, as `set_loss_weights` does, by the positives of the log.

        Returns:
            The number of positives of each path.
        """
        horizon = self._sections.model.horizon
        positives_KT, targets_T = _count_positives(self.model.tree, self._windows, horizon)
        positives_K = positives_KT.sum(1)
        weight_K = path_weights(self._sections.loss, positives_K)
        discount_T = discount(self._sections.loss.gamma, horizon)

        weights = self.model.weights
        weights.positive_KT.copy_(positive_weights(positives_KT, targets_T, weight_K, discount_T))
        weights.decision_T.copy_(decision_weights(positives_KT, weight_K, discount_T))
        return positives_K


class _Alone:
    """A model that is not distributed, called like one that is."""

    def __init__(self, model: Recommender) -> None:
        self._model = model
        self._dmp_wrapped_module = self

    def __call__(self, started: StartedStep, number: int) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self._model(started, number))

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()


class _Optimizers:
    """AdamW with clipped gradients on everything but the table, which changes in backward."""

    def __init__(self, model: Recommender, table: PlainTable, sections: Sections) -> None:
        self._parameters = list(model.parameters())
        self._table = table
        self._sections = sections
        training = sections.training
        self.dense = torch.optim.AdamW(
            self._parameters,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )

    def prepare(self, step: int) -> None:
        """Sets the learning rates of a step and clears the gradients."""
        rate = self._sections.training.rate(step)
        self._table.learning_rate = rate * self._sections.table.learning_rate
        for group in self.dense.param_groups:
            group["lr"] = rate * self._sections.training.learning_rate
        self.dense.zero_grad()

    def gradient_norm(self) -> Tensor:
        """Returns the norm of all dense gradients."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm: Tensor = torch.nn.utils.get_total_norm(gradients)
        return norm

    def step(self, norm: float) -> None:
        """Clips the gradients, whose norm is given, and updates the parameters."""
        clip_norm = self._sections.training.clip_norm
        torch.nn.utils.clip_grads_with_norm_(self._parameters, clip_norm, torch.tensor(norm))
        self.dense.step()


def tree_of(shape: Shape, log: DrawnLog) -> PriorTree:
    """Returns the prior tree of a shape."""
    levels = [_level(specification, shape, log) for specification in shape.tree]
    return PriorTree(levels, shape.items)


def _level(specification: str, shape: Shape, log: DrawnLog) -> Prior:
    name, colon, argument = specification.partition(":")
    if colon:
        assert name == "temporal"
        return TemporalPrior(int(argument), shape.horizon)

    member = log.member_of[name]
    item, group = np.nonzero(member)
    if name == "event":
        codes = np.arange(len(EVENTS))
        of_events = Memberships.from_pairs(codes, codes, len(EVENTS))
        of_items = Memberships.from_pairs(item, group, shape.items)
        return EventPrior(name, list(EVENTS), of_events, of_items)
    names = [f"{name} {number}" for number in range(member.shape[1])]
    return ItemPrior(name, names, item, group, shape.items)


def _windows(shape: Shape, log: DrawnLog, tree: PriorTree) -> Windows:
    """Returns one window for each history, as one batch."""
    numbers = np.arange(shape.sequences)
    columns = {"events": log.events.astype(np.int64)} if "events" in tree.needs else {}
    return Windows(
        step=0,
        items=log.items.astype(np.int64),
        lengths=log.contexts + 1,
        contexts=log.contexts,
        numbers=numbers,
        users=numbers,
        columns=columns,
    )


def _count_positives(tree: PriorTree, windows: Windows, horizon: int) -> tuple[Tensor, Tensor]:
    """Returns the numbers of positives [K, T] and of targets [T] at each offset."""
    ends = np.cumsum(windows.lengths)
    context_N = ranges(ends - windows.lengths, windows.contexts)
    event = windows.columns.get("events")
    positives = find_positives(
        tree,
        torch.from_numpy(windows.items),
        torch.from_numpy(context_N),
        torch.from_numpy(np.repeat(ends, windows.contexts)),
        horizon,
        event_X=None if event is None else torch.from_numpy(event),
    )
    cell_M = positives.path_M * horizon + positives.offset_M - 1
    paths = len(tree.item_set_K)
    counts = torch.bincount(cell_M, minlength=paths * horizon).view(paths, horizon)
    return counts, count(positives, horizon)[1]


def _sampler(
    tree: PriorTree, config: NegativesConfig, positives_K: Tensor, seed: int
) -> GroupSampler:
    own = OwnItems.weighted(tree.eligible(0, tree.items), 0, np.ones(tree.items, np.int64))
    positives_S = over_item_sets(tree, positives_K).numpy()
    return GroupSampler(own, own.sizes()[None], config, rank=0, seed=seed, positives_S=positives_S)
