"""The request of a command line: from numbers alone, or from a run's configuration."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from torchrec_priors.baselines.ask import score_of
from torchrec_priors.baselines.baseline import as_priors, load_baseline
from torchrec_priors.common.limits import check_most
from torchrec_priors.config import RunConfig
from torchrec_priors.embedding.features import load_features
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.heads.composition import count_parameters
from torchrec_priors.planning.activations import Activations
from torchrec_priors.planning.counts import read_count
from torchrec_priors.planning.queries import Queries, queries_in
from torchrec_priors.planning.request import Request, RequestedTable
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.model import ModelConfig
from torchrec_priors.settings.sharding import ShardingConfig
from torchrec_priors.settings.table import PREFIX, TABLE

_OF_ACTIVATIONS = (("layers", 1), ("accumulate", 1), ("queries", 1))
_MOST = {"dim": 1 << 16, "context": 1 << 20, "layers": 1 << 10, "queries": 1 << 20}
_WITH_LAYERS = ("--accumulate", "--recompute", "--precision", "--queries")


@dataclass(frozen=True)
class Numbers:
    """What is said of a model by hand; None where nothing is.

    Attributes:
        batch: windows of a rank and step.
        context: items of a window, those it is trained to predict included.
        negatives: of a step, over all ranks.
        dense: parameters of the dense model, as people write them.
        layers: of the encoder; without it activations are not counted.
        accumulate, recompute, precision: as a run's configuration has them.
        queries: paths that a position asks.
        sharding, kernel: as `ShardingConfig` has them.
    """

    dim: int | None = None
    batch: int | None = None
    context: int | None = None
    negatives: int | None = None
    dense: str | None = None
    layers: int | None = None
    accumulate: int | None = None
    recompute: bool | None = None
    precision: str | None = None
    queries: int | None = None
    sharding: str | None = None
    kernel: str | None = None

    def check(self) -> None:
        for name, least in (
            ("dim", 1),
            ("batch", 1),
            ("context", 1),
            ("negatives", 0),
            *_OF_ACTIVATIONS,
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} must be at least {least}, not {value}")
            if value is not None:
                check_most(f"--{name}", value, _MOST.get(name, 10**9))
        if self.precision not in (None, "fp32", "bf16"):
            raise UserError(f"--precision: there is no '{self.precision}': take fp32 or bf16")
        alone = [option for option in self.given() if option in _WITH_LAYERS]
        if self.layers is None and alone:
            raise UserError(f"{alone[0]} is about activations: give --layers, too, or leave it out")

    def given(self) -> list[str]:
        """Options that were given."""
        return [
            f"--{name}" for name in self.__dataclass_fields__ if getattr(self, name) is not None
        ]


DEFAULTS = Numbers(
    batch=128, context=200, negatives=8_192, dense="0", sharding="row_wise", kernel="fused"
)


def from_numbers(numbers: Numbers, items: int, **rest: Any) -> Request:
    """The request of a table of `items` rows; what is not said is as `DEFAULTS`.

    Args:
        rest: ranks, machine and the other fields of `Request`.
    """
    numbers.check()
    if numbers.dim is None:
        raise UserError("give --items and --dim, or --config")
    said = {name: value for name, value in vars(numbers).items() if value is not None}
    known = replace(DEFAULTS, **said)
    assert known.batch is not None and known.context is not None and known.negatives is not None  # noqa: PT018
    table = RequestedTable(TABLE, items, numbers.dim, known.context, known.negatives)
    dense = 0 if numbers.dense in (None, "0") else read_count(str(numbers.dense), "--dense")
    kept = None
    if known.layers is not None:
        queries = known.queries or 1
        kept = Activations(
            known.layers,
            known.context,
            horizon=0,  # of which the context's items are some
            accumulate=known.accumulate or 1,
            recompute=bool(known.recompute),
            precision=known.precision or "fp32",
            queries=queries,
            positives=max(queries, ModelConfig().horizon),
        )
    return Request(
        (table,),
        batch=known.batch,
        dense=dense,
        activations=kept,
        sharding=_sharding(known),
        **rest,
    )


def _sharding(numbers: Numbers) -> ShardingConfig:
    """Raises UserError, in the options' names, where there is no such type or kernel."""
    sharding = ShardingConfig(type=str(numbers.sharding), kernel=str(numbers.kernel))
    try:
        sharding.check()
    except UserError as error:
        says = (
            str(error)
            .replace("sharding.type =", "--sharding")
            .replace("sharding.kernel =", "--kernel")
        )
        raise UserError(says) from None
    return sharding


def from_config(
    config: RunConfig, data: PreparedData | None, items: int | None, **rest: Any
) -> Request:
    """The request of a run: its tables, batch, negatives and dense parameters.

    Args:
        data: knows items, groups and features; without it there is one item set and there are no heads.
        items: in place of the data set's.
        rest: as for `from_numbers`.

    Raises:
        UserError: nothing says how many items there are, or what the tree or the features need is not there.
    """
    if data is None and items is None:
        raise UserError("--config: give --data, or --items for how many items there are")
    if data is None and config.encoder.item_features:
        raise UserError("encoder.item_features need --data, which knows their values")
    rows = items if items is not None else data.items  # type: ignore[union-attr]
    if config.embedding.unseen == "managed":
        rows = config.embedding.rows
    model = config.model
    training = config.training
    sets = 1
    dense = 0
    tree: PriorTree | None = None
    features: list[RequestedTable] = []
    if data is not None:
        tree = load_tree(as_priors(config.baseline, config.priors), data, model.horizon)
        sets = tree.item_sets
        dense = 0 if config.baseline.name else count_parameters(tree, model.dim, config.priors)
        features = [
            RequestedTable(PREFIX + feature.name, feature.size, model.dim, model.context)
            for feature in load_features(config.encoder.item_features, data)
        ]
    with torch.device("meta"):
        events = len(data.manifest.events) if data is not None else 0
        encoder = load_encoder(config.encoder, model.dim, model.context, events)
        baseline = load_baseline(config.baseline, model.dim, model.context)
        score = score_of(baseline, model.score)
    assert isinstance(encoder, nn.Module)
    parts = [encoder, score, *([] if baseline is None else [baseline])]
    dense += sum(parameter.numel() for part in parts for parameter in part.parameters())
    negatives = config.negatives.total or config.negatives.in_group * sets + config.negatives.shared
    managed = config.embedding.unseen == "managed"
    item = RequestedTable(TABLE, rows, model.dim, model.context + model.horizon, negatives, managed)
    windows = training.batch or -(-training.batch_tokens // model.context)
    return Request(
        (item, *features),
        global_batch=windows,
        dense=dense,
        activations=_activations(config, data, tree),
        sharding=config.sharding,
        **rest,
    )


def _activations(
    config: RunConfig, data: PreparedData | None, tree: PriorTree | None
) -> Activations | None:
    """None for a backbone or a baseline whose tensors nobody has counted."""
    model = config.model
    encoder = config.encoder
    training = config.training
    if encoder.backbone != "hstu" or config.baseline.name:
        return None
    asked = Queries(1.0, float(model.horizon), 0.0)
    if data is not None and tree is not None:
        asked = queries_in(config, data, tree)
    return Activations(
        encoder.layers,
        model.context,
        horizon=model.horizon,
        accumulate=training.accumulate,
        dropout=encoder.dropout > 0,
        recompute=encoder.recompute,
        precision=training.precision,
        cosine=model.score == "cosine",
        features=bool(encoder.item_features),
        gated_sets=tree.item_sets if tree is not None and config.loss.gate else 0,
        sets=1 if tree is None else tree.item_sets,
        **vars(asked),
    )
