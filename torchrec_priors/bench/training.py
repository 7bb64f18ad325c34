"""Times training steps of our path and of the dense reference.

Suffixes of names: B windows, X items of a window, K paths, O offsets, S item sets.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchrec_priors.bench.flops import training_flops
from torchrec_priors.bench.limits import Products
from torchrec_priors.bench.reference import DenseReference
from torchrec_priors.bench.shapes import Shape
from torchrec_priors.bench.timed import Timed, peak_bytes, repeat, repeat_beside
from torchrec_priors.config import parse
from torchrec_priors.data.batch import Batch, make_batch
from torchrec_priors.data.windows import Windows, WindowStream
from torchrec_priors.embedding.item_table import FEATURE, Shard, initialise_rows
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.encoder.hstu import HSTU
from torchrec_priors.heads.composition import make_heads
from torchrec_priors.heads.nodes import nodes
from torchrec_priors.loss import discount, path_weights, positive_weights
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import join
from torchrec_priors.ranks.share import Share
from torchrec_priors.sampling.group_sampler import Draw, GroupSampler, OwnItems
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.build import build_model
from torchrec_priors.training.built import Built
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.run.paths import count_positives, over_item_sets
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import step

_Ours = tuple[Built, Windows, Callable[[int], Batch], Callable[[int], float]]

_ALWAYS = {
    "priors.min_positives": 0,
    # With adapters of zeros, the loss would be right even if adapters were computed wrongly.
    "priors.init_std": 0.02,
}


def time_ours(shape: Shape, data: Path, repeats: int, changes: dict[str, Any]) -> Timed:
    """Times whole steps of our path, as in `train`."""
    with _ours(shape, data, changes) as (built, windows, batch_of, run):
        seconds, losses, rates = repeat_beside(run, repeats, Products().rate)
        peak = peak_bytes()
        flops = training_flops(built.model, batch_of(0))
    return Timed(seconds, losses, peak, int(windows.contexts.sum()), flops, rates)


@contextmanager
def runner(shape: Shape, data: Path, changes: dict[str, Any]) -> Iterator[Callable[[int], float]]:
    """Yields a function that runs a step of our path, given its number, and returns the loss."""
    with _ours(shape, data, changes) as (*_, run):
        yield run


@contextmanager
def _ours(shape: Shape, data: Path, changes: dict[str, Any]) -> Iterator[_Ours]:
    """Yields the model, the windows, and functions that make a batch and run a step."""
    config = parse(shape.config({**_ALWAYS, **changes}))
    prepared = PreparedData(data)
    with join() as ranks:
        built = build_model(config, prepared, ranks)
        set_loss_weights(built, config)
        optimizers = Optimizers(built, config)
        sampler = make_sampler(built, config, prepared, ranks)
        windows = _windows(config, prepared, built.training_columns, ranks.share)

        built.parallel.train()

        def batch_of(number: int) -> Batch:
            return make_batch(windows, sampler.draw(number), feature=FEATURE, seed=config.seed)

        def run(number: int) -> float:
            return step(built, optimizers, batch_of(number)).loss

        yield built, windows, batch_of, run


def time_reference(shape: Shape, data: Path, repeats: int, changes: dict[str, Any]) -> Timed:
    """Times the same steps with `DenseReference`, dense gradients and Adam."""
    config = parse(shape.config({**_ALWAYS, **changes}))
    prepared = PreparedData(data)
    tree = load_tree(config.priors, prepared, config.model.horizon)
    model = _reference(config, prepared, tree)

    # These are the weights of Eq. 8, which `set_loss_weights` computes for our model.
    counted = count_positives(tree, prepared, config.model.horizon, Share(), prepared.lengths)
    positives_KO = counted[:-1]
    targets_O = counted[-1]
    positives_K = positives_KO.sum(1)
    discount_O = discount(config.loss.gamma, config.model.horizon)
    cell_KO = positive_weights(
        positives_KO, targets_O, path_weights(config.loss, positives_K), discount_O
    )
    weight_KO = cell_KO / targets_O.clamp(min=1)  # for a batch with the whole log

    sampler = _sampler(config, prepared, tree, positives_K)
    windows = _windows(config, prepared, ("events",))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate)
    item_BX, event_BX, length_B = _padded(windows, config.model.context + config.model.horizon)

    def run(number: int) -> float:
        optimizer.zero_grad()
        loss = model(item_BX, event_BX, length_B, _sets(sampler.draw(number)), weight_KO)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
        optimizer.step()
        return float(loss.detach())

    seconds, losses = repeat(run, repeats)
    return Timed(seconds, losses, peak_bytes(), int(windows.contexts.sum()))


def _windows(
    config: RunConfig, data: PreparedData, columns: tuple[str, ...], share: Share = Share()
) -> Windows:
    """Returns this rank's part of all windows of the data set, as one batch."""
    # Every sequence of the data set is one window, and the batch has all of them.
    stream = WindowStream(
        data,
        context=config.model.context,
        horizon=config.model.horizon,
        batch=config.training.batch,
        seed=config.seed,
        share=share,
        balanced_for=config.model.dim,
        columns=columns,
        training_end_U=data.lengths,
    )

    assert stream.steps_an_epoch == 1
    return next(iter(stream))


def _reference(config: RunConfig, data: PreparedData, tree: PriorTree) -> DenseReference:
    """Returns the reference with the same initial weights as our model."""
    torch.manual_seed(config.seed)
    encoder = load_encoder(
        config.encoder, config.model.dim, config.model.context, len(data.manifest.events)
    )
    heads = make_heads(tree, config.model.dim, config.priors, nodes(tree))

    table = nn.Embedding(1, config.model.dim)
    table.weight = nn.Parameter(torch.empty(data.items, config.model.dim))
    initialise_rows(Shard(table.weight.data, 0), config.seed, config.table.init_std)
    assert isinstance(encoder, HSTU)
    return DenseReference(tree, table, encoder, heads, config.model.horizon)


def _sampler(
    config: RunConfig, data: PreparedData, tree: PriorTree, positives_K: Tensor
) -> GroupSampler:
    """Returns a sampler of negatives for a single process."""
    sets = tree.eligible(0, data.items)
    own = OwnItems.weighted(sets, 0, np.ones(data.items, np.int64))
    positives_S = over_item_sets(tree, positives_K).numpy()
    return GroupSampler(
        own, own.sizes()[None], config.negatives, rank=0, seed=config.seed, positives_S=positives_S
    )


def _sets(draw: Draw) -> list[Tensor]:
    """Returns the negatives of each item set."""
    return list(torch.from_numpy(draw.own_ids).split(draw.counts_S))


def _padded(windows: Windows, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns items and events, [B, X] padded to `width`, and the lengths."""
    items = torch.zeros(len(windows.lengths), width, dtype=torch.int64)
    events = torch.zeros_like(items)
    bounds = np.cumsum([0, *windows.lengths])
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        items[number, : end - start] = torch.from_numpy(windows.items[start:end])
        events[number, : end - start] = torch.from_numpy(windows.columns["events"][start:end])
    return items, events, torch.from_numpy(windows.lengths)
