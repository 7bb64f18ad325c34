"""Checks that a machine has the memory that a run needs, before the run allocates any of it.

All estimates are lower bounds, so a run that could succeed is never rejected. The command `plan`
estimates the memory that a run really takes. The parameters of custom encoders and baselines are
not counted.
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
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.encoder.encoder import load_encoder
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.run_config import RunConfig

_NUMBER = 4  # bytes of a float32
_COPIES = 4  # numbers for each dense parameter in training: value, gradient, AdamW's two moments
# How many numbers autograd keeps in each layer for one number of a state; HSTU keeps more.
_KEPT_OF_A_LAYER = 5


@dataclass(frozen=True)
class Need:
    """The least memory that a rank needs for one purpose, such as its rows of the table.

    Attributes:
        settings: the settings that decide the size, as text for messages.
        bytes: the size.
    """

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
    """Rejects a run that cannot fit into the memory of this machine.

    Args:
        rows: the number of rows of the item table.
        for_training: False if the model is only read, which needs no batches and no optimizers.

    Raises:
        UserError: one purpose alone needs more memory than a rank can have.
    """
    needs = [_table(config, rows, ranks.world), _dense(config, data, ranks.world, for_training)]
    if config.embedding.content:
        needs.append(_content(config, data))
    if config.items.encoder:
        needs.append(_item_llm(config, data, ranks.world, for_training))
    if for_training:
        needs += [_batch(config, data, ranks.world), _negatives(config, tree)]
    needs.append(_users(config, data))

    # Each purpose is checked separately, so the message can name the settings to change.
    memory = memory_of_rank(ranks)
    for need in needs:
        if need.bytes > memory:
            raise UserError(
                f"{need.settings} needs at least {as_text(need.bytes)} of memory per rank, but only"
                f" {as_text(memory)} is available: use smaller values, or more ranks on more"
                " machines"
            )


def memory_of_rank(ranks: Ranks) -> int:
    """Returns the most memory, in bytes, that this rank could use on its machine and its GPU."""
    # The launcher says how many ranks share this machine.
    local_ranks = whole_number(os.environ.get("LOCAL_WORLD_SIZE", "")) or 1
    of_gpu = 0
    if ranks.device.type == "cuda":
        of_gpu = torch.cuda.mem_get_info(ranks.device)[1]
    return total_memory() // max(1, min(local_ranks, ranks.world)) + of_gpu


def _table(config: RunConfig, rows: int, world: int) -> Need:
    """Estimates the memory for a rank's rows of the item table."""
    origin = "the catalogue's items"
    if config.embedding.unseen == "managed":
        origin = "embedding.rows"
    elif config.embedding.unseen == "hashed":
        origin = "the catalogue's items and embedding.hashed_rows"

    dim = config.model.dim
    settings = f"a table of {rows:,} rows ({origin}) at model.dim = {dim:,}"
    return Need(settings, rows * dim * _NUMBER // world)


def _content(config: RunConfig, data: PreparedData) -> Need:
    """Estimates the memory for the content of items, which every rank holds."""
    info = data.manifest.content_of(config.embedding.content)
    settings = f"embedding.content = '{info.name}' ({info.items:,} items of {info.dim:,} numbers)"
    return Need(settings, info.items * info.dim * _NUMBER)


def _item_llm(config: RunConfig, data: PreparedData, world: int, for_training: bool) -> Need:
    """Estimates the memory for the item LLM, and for what it makes of all items.

    In training, gradients and the optimizer's state are included.
    """
    info = data.manifest.content_of(config.items.content)
    nothing = torch.zeros(1, dtype=torch.int64)
    with torch.device("meta"):
        llm = ItemLLM(config.items, nothing[:0], nothing, info.dim)
    numbers = 0
    for parameter in llm.parameters():
        copies = _COPIES if for_training and parameter.requires_grad else 1
        numbers += copies * parameter.numel()
    numbers //= _parts(config, world, for_training)
    numbers += info.items * llm.width
    return Need(f"items.llm, for {info.items:,} items,", numbers * _NUMBER)


def _parts(config: RunConfig, world: int, for_training: bool) -> int:
    """Returns the number of ranks that language models are divided among."""
    return world if for_training and config.sharding.language_models else 1


def _dense(config: RunConfig, data: PreparedData, world: int, for_training: bool) -> Need:
    """Estimates the memory for the parameters of encoder and baseline.

    In training, gradients and the optimizer's state are included.
    """
    model = config.model
    encoder = config.encoder
    baseline = config.baseline

    # On the meta device modules have sizes but take no memory. The user's own files are skipped.
    parts: list[object] = []
    with torch.device("meta"):
        if own_file(encoder.backbone) is None:
            parts.append(load_encoder(encoder, model.dim, model.context, len(data.manifest.events)))
        if own_file(baseline.name) is None:
            parts.append(load_baseline(baseline, model.dim, model.context))
    modules = [part for part in parts if isinstance(part, nn.Module)]
    numbers = sum(parameter.numel() for part in modules for parameter in part.parameters())

    of_encoder = "encoder.llm" if encoder.has_llm else f"encoder.layers = {encoder.layers:,}"
    settings = f"model.dim = {model.dim:,} and model.context = {model.context:,} with {of_encoder}"
    if baseline.name:
        settings += f" and baseline.options of {baseline.name}"
    copies = _COPIES if for_training else 1
    if encoder.has_llm:
        numbers //= _parts(config, world, for_training)
    return Need(settings, numbers * _NUMBER * copies)


def _batch(config: RunConfig, data: PreparedData, world: int) -> Need:
    """Estimates the memory that autograd keeps for a rank's part of a batch."""
    training = config.training
    model = config.model
    name = "training.batch_tokens" if training.batch_tokens else "training.batch"
    given = training.batch_tokens or training.batch

    # A batch has at most as many tokens as the data set has training items.
    most_tokens = training.batch_tokens or training.batch * model.context
    tokens = min(most_tokens, int(training_ends(data, training).sum(dtype="int64")))
    tokens_of_part = math.ceil(tokens / (world * training.accumulate))

    # A custom encoder may keep anything for autograd; only its output, the states, is certain. The
    # width of a language model is not that of the states.
    kept = 1
    if own_file(config.encoder.backbone) is None and not config.encoder.has_llm:
        layers = 1 if config.encoder.recompute else config.encoder.layers
        kept = layers * _KEPT_OF_A_LAYER

    settings = f"{name} = {given:,} ({tokens:,} items of contexts) at model.dim = {model.dim:,}"
    return Need(settings, tokens_of_part * model.dim * _NUMBER * kept)


def _negatives(config: RunConfig, tree: PriorTree) -> Need:
    """Estimates the memory for the vectors of a step's negatives.

    Every rank gathers the vectors of all negatives.
    """
    negatives = config.negatives
    name = "negatives.total" if negatives.total else "negatives.per_set"
    given = negatives.total or negatives.per_set

    # An item set gives at most as many negatives as it has items.
    in_groups = int(tree.set_sizes.clip(max=negatives.in_group).sum())
    drawn = in_groups + min(negatives.shared, tree.items)
    if negatives.total:
        drawn = min(negatives.total, int(tree.set_sizes.sum()) + tree.items)

    dim = config.model.dim
    settings = f"{name} = {given:,} ({drawn:,} negatives a step) at model.dim = {dim:,}"
    return Need(settings, drawn * dim * _NUMBER)


def _users(config: RunConfig, data: PreparedData) -> Need:
    """Estimates the memory for the states of the users that are evaluated together."""
    model = config.model
    # A user has at most `model.context` states. All users together have at most as many states as
    # the data set has interactions.
    users = min(config.evaluation.batch, data.users)
    longest = min(model.context, int(data.lengths.max(initial=1)))
    tokens = min(users * longest, int(data.lengths.sum(dtype="int64")))

    settings = (
        f"evaluation.batch = {config.evaluation.batch:,} at model.context = {model.context:,}"
    )
    return Need(settings, tokens * model.dim * _NUMBER)
