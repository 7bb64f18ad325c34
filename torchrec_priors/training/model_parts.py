"""Prepares what is computed before a model: its tree, its rows of items, and its positives.

Shapes: I items of the data set.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.baselines.baseline import as_priors
from torchrec_priors.data.as_trained import AsTrained
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.rows import Rows
from torchrec_priors.heads.composition import check_budget
from torchrec_priors.heads.nodes import Depth, nodes, say_backed_off
from torchrec_priors.prepared.content import Content, read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.tokens import ItemTokens, read_tokens
from torchrec_priors.priors.load import load_tree
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.columns import encoder_columns, training_columns
from torchrec_priors.training.fits_memory import check_memory
from torchrec_priors.training.frequency import say_unseen, training_frequency
from torchrec_priors.training.run.folder import TrainedOn
from torchrec_priors.training.run.paths import Counted, count_positives, path_names, read_paths


@dataclass(frozen=True)
class ModelParts:
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


def prepare_parts(
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    trained: TrainedOn | None,
    for_training: bool,
) -> ModelParts:
    """Prepares the parts of a model. All ranks count what the run has not recorded yet.

    Args:
        trained, for_training: as for `build_model`.
    """
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
    rows = _rows_of_items(config, data.items, seen_I, content or tokens)
    check_memory(config, data, tree, rows.rows, ranks, for_training=for_training)

    if trained is None:
        say_unseen(config.embedding, rows, frequency)
    counted = None if trained is None else read_paths(trained.paths, tree)
    # Runs of an earlier version did not record the counts for each offset.
    if counted is None or (for_training and counted.by_offset is None):
        counted = _count_on_all_ranks(config, data, ranks, tree, rows)

    depths = []
    if has_adapters:
        depths = nodes(tree, counted.positives_K, config.priors.min_positives)
    if for_training:
        tree.say_what_is_left_out()
        if has_adapters:
            say_backed_off(tree, depths, config.priors.min_positives)

    return ModelParts(
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


def _rows_of_items(
    config: RunConfig,
    items: int,
    seen_I: np.ndarray | None,
    described: Content | ItemTokens | None,
) -> Rows:
    """Returns the map from items to rows of the item table.

    Args:
        items: I.
        seen_I: see `Built`.
        described: what describes items without rows; None if nothing does.
    """
    if config.embedding.unseen == "managed":
        return ManagedRows(config.embedding, items)

    described_I = None
    if described is not None:
        described_I = np.zeros(items, bool)
        described_I[described.item_M] = True
    return ItemRows.of(config.embedding, seen_I, items, described_I)


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
