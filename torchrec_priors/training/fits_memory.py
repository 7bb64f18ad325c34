"""What a run needs of memory at the least, told by name before any of it is taken.

Everything is estimated from below, so that nothing is refused which could be done: `plan` estimates what is really
taken. Only this project's own encoders and baselines are counted.

Shapes: d width, N tokens of a rank's part of a batch.
"""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn

from torchrec_priors.baselines.baseline import load_baseline
from torchrec_priors.common.amounts import as_text
from torchrec_priors.common.limits import whole_number
from torchrec_priors.common.machine import total_memory
from torchrec_priors.common.plugin import own_file
from torchrec_priors.config import RunConfig
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks

_NUMBER = 4  # bytes
_COPIES = 4  # of a dense parameter in training: value, gradient, and AdamW's two moments
_KEPT_OF_A_LAYER = 5  # numbers that autograd keeps of every number of a state; HSTU keeps more


@dataclass(frozen=True)
class Need:
    """A part of what a rank holds: which settings make it how large."""

    settings: str
    bytes: int


def check_memory(
    config: RunConfig,
    data: PreparedData,
    tree: PriorTree,
    rows: int,
    ranks: Ranks,
    *,
    for_training: bool,
) -> None:
    """Refuses what cannot be done on this machine.

    Args:
        rows: of the item table.

    Raises:
        UserError: a part needs more memory than a rank can have.
    """
    needs = [_table(config, rows, ranks.world), _dense(config, data, for_training)]
    needs += [_batch(config, data, ranks.world), _negatives(config, tree)] if for_training else []
    needs.append(_users(config, data))

    there = memory_of_rank(ranks)
    for need in needs:
        if need.bytes > there:
            raise UserError(
                f"{need.settings} takes {as_text(need.bytes)} of memory a rank at the least, and there are "
                f"{as_text(there)}: give less, or more ranks on more machines"
            )


def memory_of_rank(ranks: Ranks) -> int:
    """Bytes that this rank could have at most: of its machine and, beside that, of its GPU."""
    here = whole_number(os.environ.get("LOCAL_WORLD_SIZE", "")) or 1
    of_gpu = torch.cuda.mem_get_info(ranks.device)[1] if ranks.device.type == "cuda" else 0
    return total_memory() // max(1, min(here, ranks.world)) + of_gpu


def _table(config: RunConfig, rows: int, world: int) -> Need:
    made_of = "embedding.rows" if config.embedding.unseen == "managed" else "the catalogue's items"
    if config.embedding.unseen == "hashed":
        made_of = "the catalogue's items and embedding.hashed_rows"
    dim = config.model.dim
    return Need(
        f"a table of {rows:,} rows ({made_of}) at model.dim = {dim:,}",
        rows * dim * _NUMBER // world,
    )


def _dense(config: RunConfig, data: PreparedData, for_training: bool) -> Need:
    model = config.model
    encoder = config.encoder
    baseline = config.baseline
    parts: list[object] = []
    with torch.device("meta"):  # sizes alone
        if own_file(encoder.backbone) is None:
            parts.append(load_encoder(encoder, model.dim, model.context, len(data.manifest.events)))
        if own_file(baseline.name) is None:
            parts.append(load_baseline(baseline, model.dim, model.context))
    modules = [part for part in parts if isinstance(part, nn.Module)]
    numbers = sum(parameter.numel() for part in modules for parameter in part.parameters())
    of = f"model.dim = {model.dim:,} and model.context = {model.context:,} with encoder.layers = {encoder.layers:,}"
    if baseline.name:
        of += f" and baseline.options of {baseline.name}"
    return Need(of, numbers * _NUMBER * (_COPIES if for_training else 1))


def _batch(config: RunConfig, data: PreparedData, world: int) -> Need:
    training = config.training
    model = config.model
    asked = training.batch_tokens or training.batch * model.context
    tokens = min(asked, int(training_ends(data, training).sum(dtype="int64")))
    part = math.ceil(tokens / (world * training.accumulate))
    layers = 1 if config.encoder.recompute else config.encoder.layers
    kept = layers * _KEPT_OF_A_LAYER if own_file(config.encoder.backbone) is None else 1
    name = "training.batch_tokens" if training.batch_tokens else "training.batch"
    given = training.batch_tokens or training.batch
    settings = f"{name} = {given:,} ({tokens:,} items of contexts) at model.dim = {model.dim:,}"
    return Need(settings, part * model.dim * _NUMBER * kept)


def _negatives(config: RunConfig, tree: PriorTree) -> Need:
    """Those that every rank gathers."""
    negatives = config.negatives
    drawn = int(tree.set_sizes.clip(max=negatives.in_group).sum()) + min(
        negatives.shared, tree.items
    )
    if negatives.total:
        drawn = min(negatives.total, int(tree.set_sizes.sum()) + tree.items)
    name = "negatives.total" if negatives.total else "negatives.per_set"
    given = negatives.total or negatives.per_set
    settings = (
        f"{name} = {given:,} ({drawn:,} negatives a step) at model.dim = {config.model.dim:,}"
    )
    return Need(settings, drawn * config.model.dim * _NUMBER)


def _users(config: RunConfig, data: PreparedData) -> Need:
    """Those that are evaluated together."""
    users = min(config.evaluation.batch, data.users)
    model = config.model
    longest = min(model.context, int(data.lengths.max(initial=1)))
    settings = (
        f"evaluation.batch = {config.evaluation.batch:,} at model.context = {model.context:,}"
    )
    return Need(
        settings, min(users * longest, int(data.lengths.sum(dtype="int64"))) * model.dim * _NUMBER
    )
