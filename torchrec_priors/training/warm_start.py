"""Implements `train --init-from`: a run takes its initial values from another run.

The values come from the other run's best checkpoint. They are matched by names, not by positions,
because a later log numbers users, items and groups differently. Rows of the item table are matched
by original ids, rows of feature tables by values, and heads and the gate's decisions by the names
of their groups. Values that the other run does not have keep their usual initial values; a log line
says how many were copied.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.embedding.features import load_features
from torchrec_priors.errors import UserError
from torchrec_priors.heads.nodes import nodes
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.settings.table import TABLE, table_of_feature
from torchrec_priors.training.built import Built
from torchrec_priors.training.carried_rows import OldRows, carried_rows
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.model_parts import tree_of
from torchrec_priors.training.old_checkpoint import OldCheckpoint
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.paths import read_paths
from torchrec_priors.training.run.recorded_data import TrainedOn, used_content

log = logging.getLogger(__name__)

_OF_CONTENT = "content."  # parameters of the projection of content


def start_from(
    source: RunFolder, built: Built, config: RunConfig, data: PreparedData, ranks: Ranks
) -> str:
    """Copies the values of another run into a model that was just built. Every rank must call it.

    Args:
        source: the folder of the other run.

    Returns:
        The name of the checkpoint that the values come from.

    Raises:
        UserError: `source` holds no run with a best checkpoint, or the model of that run has other
            sizes or event types.
    """
    if config.sharding.language_models and ranks.world > 1:
        raise UserError(
            "--init-from cannot fill language models that are divided among ranks: set "
            "sharding.language_models=false for the first steps, and resume with true"
        )
    if source.was_pushed:
        raise UserError(
            f"--init-from: '{source.path}' holds a pushed run, which has no checkpoint to start "
            "from: name the folder in which it was trained"
        )
    old_config, old_data = source.open(option="--init-from")
    place = Checkpoints(source.checkpoints, ranks).best_place("--init-from")

    # Vectors of event types are matched by number. With other event types, a number would mean
    # something else.
    uses_events = config.encoder.events and old_config.encoder.events
    if uses_events and old_data.manifest.events != data.manifest.events:
        raise UserError(f"--init-from: '{source.path}' was trained on other event types")

    # From here on all ranks read the checkpoint together: the order of the calls matters.
    checkpoint = OldCheckpoint(place, ranks)
    checkpoint.copy_dense(built, () if _same_content(source, config, data) else (_OF_CONTENT,))
    old = _OldRun(source, old_config, old_data, source.trained_on(old_config, old_data))
    _copy_groups(checkpoint, built, old)
    _copy_tables(checkpoint, built, config, data, old)

    report = "; ".join(checkpoint.report)
    log.info("started from %s of '%s': %s", place.name, source.path, report)
    return place.name


def _same_content(source: RunFolder, config: RunConfig, data: PreparedData) -> bool:
    """Returns whether both runs have content of the same model, so that its projection fits."""
    before = {(used.identity, used.dim) for used in source.origin().content.values()}
    now = {(used.identity, used.dim) for used in used_content(config, data).values()}
    return before == now


@dataclass(frozen=True)
class _OldRun:
    """The run that values are copied from.

    Attributes:
        folder: the run's folder.
        config: the run's configuration.
        data: the data set that the run was trained on. It may have grown since then.
        trained: what the run recorded about its data set when it started.
    """

    folder: RunFolder
    config: RunConfig
    data: PreparedData
    trained: TrainedOn


def _copy_groups(checkpoint: OldCheckpoint, built: Built, old: _OldRun) -> None:
    """Copies heads, group vectors and the gate's decisions, by the names of their groups."""
    old_tree = tree_of(old.config, old.data, old.trained)
    old_names = _names_with_adapters(old, old_tree)
    adapters = zip(built.depths, built.model.heads.adapters, strict=True)
    for level, (depth, weight) in enumerate(adapters):
        names = depth.names
        copied = checkpoint.copy_matched(
            f"heads.adapters.{level}", _names_of(old_names, level), names, weight
        )
        checkpoint.report.append(f"{copied} of {len(names)} heads at level {level + 1}")

    # The last level has no group vectors, so there is one embedding less than there are levels.
    tree = built.model.tree
    embeddings = zip(tree.group_names, built.model.heads.embeddings, strict=False)
    for level, (names, weight) in enumerate(embeddings):
        copied = checkpoint.copy_matched(
            f"heads.embeddings.{level}", _names_of(old_tree.group_names, level), names, weight
        )
        checkpoint.report.append(f"{copied} of {len(names)} group vectors at level {level + 1}")

    # Each parameter of the gate has one slice for each item set, so the same number of slices is
    # copied for each parameter, and the last count can be reported for all.
    if built.model.gate is not None:
        names = tree.item_set_names
        for name, weight in built.model.gate.named_parameters():
            copied = checkpoint.copy_matched(f"gate.{name}", old_tree.item_set_names, names, weight)
        checkpoint.report.append(f"{copied} of {len(names)} decisions of the gate")


def _names_with_adapters(old: _OldRun, old_tree: PriorTree) -> list[list[str]]:
    """Returns the names of the other run's nodes that have adapters, level by level."""
    positives_K = read_paths(old.folder.paths, old_tree).positives_K
    depths = nodes(old_tree, positives_K, old.config.priors.min_positives)
    return [depth.names for depth in depths]


def _copy_tables(
    checkpoint: OldCheckpoint, built: Built, config: RunConfig, data: PreparedData, old: _OldRun
) -> None:
    """Copies rows of the item table by original ids, and of the tables of features by values."""
    # The other data set may have grown since that run started. Only values of items that existed at
    # that time have rows in the checkpoint.
    old_values = _values(old.config, old.data, old.trained.items)
    values = _values(config, data)

    for table, own in built.tables.items():
        if table == TABLE:
            old_rows = OldRows(old.config, old.data, old.trained, checkpoint.whole)
            old_row = carried_rows(built, config, data, old_rows)
            checkpoint.copy_rows(table, old_row, built.model.item_rows.rows, own)
        elif table in old_values:
            index = pc.fill_null(pc.index_in(values[table], old_values[table]), -1)
            old_row = index.to_numpy(zero_copy_only=False)[own.first : own.last]
            checkpoint.copy_rows(table, old_row.astype(np.int64), len(index), own)
        else:
            checkpoint.report.append(f"0 of {len(values[table]):,} {table}s")


def _names_of(names: list[list[str]], level: int) -> list[str]:
    """Returns the names at one level; an empty list if there are fewer levels."""
    return names[level] if level < len(names) else []


def _values(config: RunConfig, data: PreparedData, items: int | None = None) -> dict[str, pa.Array]:
    """Returns for each feature the values, as texts, that its table has rows for.

    Args:
        items: only the first `items` items of the data set are used; None for all.
    """
    features = load_features(config.encoder.item_features, data, items)
    return {table_of_feature(feature.name): feature.values for feature in features}
