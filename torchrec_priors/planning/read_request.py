"""Makes a request from a command line: from numbers, or from a run's configuration."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchrec_priors.baselines.ask import score_of
from torchrec_priors.baselines.baseline import as_priors, load_baseline
from torchrec_priors.embedding.features import load_features
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.encoder.llm import LLM
from torchrec_priors.errors import UserError
from torchrec_priors.heads.composition import count_parameters
from torchrec_priors.heads.repeat_head import RepeatHead
from torchrec_priors.planning.activations import Activations
from torchrec_priors.planning.counts import read_count
from torchrec_priors.planning.language_of_run import content_of, language_models
from torchrec_priors.planning.numbers import DEFAULTS, Numbers
from torchrec_priors.planning.queries import Queries, queries_in
from torchrec_priors.planning.request import Request, RequestedTable
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.model import ModelConfig
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.settings.sharding import ShardingConfig
from torchrec_priors.settings.table import PREFIX, TABLE


def from_numbers(numbers: Numbers, items: int, **rest: Any) -> Request:
    """Makes the request for a table of `items` rows; `DEFAULTS` has the values of missing options.

    Args:
        numbers: the options that describe the model.
        items: the number of rows.
        rest: ranks, machine and the other fields of `Request`.

    Raises:
        UserError: a number is missing or out of range.
    """
    numbers.check()
    if numbers.dim is None:
        raise UserError("give --items and --dim, or --config")

    given = {name: value for name, value in vars(numbers).items() if value is not None}
    known = replace(DEFAULTS, **given)
    assert known.batch is not None
    assert known.context is not None
    assert known.negatives is not None
    table = RequestedTable(TABLE, items, numbers.dim, known.context, known.negatives)
    dense = 0
    if numbers.dense not in (None, "0"):
        dense = read_count(str(numbers.dense), "--dense")

    activations = None
    if known.layers is not None:
        queries = known.queries or 1
        activations = Activations(
            known.layers,
            known.context,
            horizon=0,  # the context contains the items of the horizon
            accumulate=known.accumulate or 1,
            recompute=bool(known.recompute),
            precision=known.precision or "fp32",
            queries=queries,
            # Each path has at least one positive. A single path has all items of the default
            # horizon.
            positives=max(queries, ModelConfig().horizon),
        )
    return Request(
        (table,),
        batch=known.batch,
        dense=dense,
        activations=activations,
        sharding=_sharding(known),
        **rest,
    )


def _sharding(numbers: Numbers) -> ShardingConfig:
    """Returns the sharding; raises UserError if the type or the kernel does not exist."""
    sharding = ShardingConfig(type=str(numbers.sharding), kernel=str(numbers.kernel))
    try:
        sharding.check()
    except UserError as error:
        # The message names keys of a configuration. The user has written options instead.
        message = str(error)
        message = message.replace("sharding.type =", "--sharding")
        message = message.replace("sharding.kernel =", "--kernel")
        raise UserError(message) from None
    return sharding


def from_config(
    config: RunConfig,
    data: PreparedData | None,
    items: int | None,
    *,
    text_tokens: int | None = None,
    **rest: Any,
) -> Request:
    """Makes the request for a run: its tables, batch, negatives and dense parameters.

    Args:
        config: the configuration of the run.
        data: the data set, with items, groups and features. Without it, there is one item set and
            there are no heads.
        items: the number of items; by default that of the data set.
        text_tokens: the average number of tokens of an item's text; by default that of the data
            set, or `TEXT_TOKENS` without one.
        rest: ranks, machine and the other fields of `Request`.

    Raises:
        UserError: the number of items is not given, or the data set lacks a prior of the tree or a
            feature.
    """
    if data is None and items is None:
        raise UserError("--config: give --data, or the number of items as --items")
    if data is None and config.encoder.item_features:
        raise UserError("encoder.item_features need --data, which contains their values")

    # A managed table has a fixed number of rows, for any number of items.
    managed = config.embedding.unseen == "managed"
    if managed:
        rows = config.embedding.rows
    elif items is not None:
        rows = items
    else:
        rows = data.items  # type: ignore[union-attr]

    model = config.model
    sets = 1
    dense = 0
    tree: PriorTree | None = None
    features: list[RequestedTable] = []
    if data is not None:
        tree = load_tree(as_priors(config.baseline, config.priors), data, model.horizon)
        sets = tree.item_sets
        if not config.baseline.name:  # a baseline model has no heads
            dense = count_parameters(tree, model.dim, config.priors)
        features = [
            RequestedTable(PREFIX + feature.name, feature.size, model.dim, model.context)
            for feature in load_features(config.encoder.item_features, data)
        ]
    dense += _count_dense(config, data)

    # Negatives are given in total or per item set; a run computes the number in the same way.
    negatives = config.negatives.total or config.negatives.in_group * sets + config.negatives.shared
    item = RequestedTable(TABLE, rows, model.dim, model.context + model.horizon, negatives, managed)
    windows = config.training.batch or -(-config.training.batch_tokens // model.context)
    language = language_models(config, data, negatives, text_tokens)
    width, projection = content_of(config, data, language)
    return Request(
        (item, *features),
        global_batch=windows,
        dense=dense + projection,
        content=width,
        has_rows=config.embedding.ids,
        language=language,
        activations=_activations(config, data, tree, width),
        sharding=config.sharding,
        **rest,
    )


def _count_dense(config: RunConfig, data: PreparedData | None) -> int:
    """Counts the dense parameters of all modules except the heads."""
    model = config.model
    events = 0
    if data is not None:
        events = len(data.manifest.events)
    # Only shapes are needed, so modules are made on the meta device.
    with torch.device("meta"):
        encoder = load_encoder(config.encoder, model.dim, model.context, events)
        baseline = load_baseline(config.baseline, model.dim, model.context)
        score = score_of(baseline, model.score)
        repeat_head = None
        if config.repeats.weight:
            repeat_head = RepeatHead(model.dim, model.context, config.repeats.time_bias)
    assert isinstance(encoder, nn.Module)

    # Language models are counted apart, with the layers around them here.
    modules: list[nn.Module] = [encoder, score]
    if isinstance(encoder, LLM):
        modules = [*(child for child in encoder.children() if child is not encoder.model), score]
    if baseline is not None:
        modules.append(baseline)
    if repeat_head is not None:
        modules.append(repeat_head)
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _activations(
    config: RunConfig, data: PreparedData | None, tree: PriorTree | None, content: int
) -> Activations | None:
    """Describes the activations of a run; None if its backbone or baseline cannot be counted.

    Args:
        content: the width of the content of items; 0 without.
    """
    model = config.model
    encoder = config.encoder
    training = config.training
    if (encoder.backbone != "hstu" and not encoder.has_llm) or config.baseline.name:
        return None

    # Without a tree, a token has one query with all items of the horizon as positives.
    # Each target is then taken to occur once in the context.
    repeats = bool(config.repeats.weight)
    queries = Queries(
        1.0, float(model.horizon), 0.0, occurrences=float(model.horizon) if repeats else 0.0
    )
    if data is not None and tree is not None:
        queries = queries_in(config, data, tree)
    return Activations(
        # The layers of a language model are counted apart.
        0 if encoder.has_llm else encoder.layers,
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
        joint=config.loss.softmax == "joint",
        repeats=repeats,
        repeats_in_time=repeats and config.repeats.time_bias,
        content=content,
        **vars(queries),
    )
