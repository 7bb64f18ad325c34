"""`train --init-from`: the first values of a run come from the best checkpoint of another.

Values are matched by name, not by position, as a later log numbers everything again: rows of tables
by original ids and values, heads and the gate's decisions by the names of their groups. What the
other run does not know keeps its own first values, and is counted.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard as ShardedBy
from torch.distributed.tensor import zeros as sharded_zeros

from torchrec_priors.config import RunConfig
from torchrec_priors.embedding.features import load_features
from torchrec_priors.embedding.own_rows import OwnRows
from torchrec_priors.errors import UserError
from torchrec_priors.heads.nodes import nodes
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.table import TABLE, table_of_feature
from torchrec_priors.training.build import Built, tree_of
from torchrec_priors.training.carried_rows import OldRows, carried_rows
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints, load
from torchrec_priors.training.checkpoint.keys import MODEL, key_in_model
from torchrec_priors.training.checkpoint.reader import Reader
from torchrec_priors.training.run.folder import RunFolder, TrainedOn
from torchrec_priors.training.run.paths import read_paths

log = logging.getLogger(__name__)

_ROWS_AT_A_TIME = 1 << 16
# Parameters with these prefixes are matched by the names of groups, not by their own.
_MATCHED = ("heads.", "gate.")
# These are not missed: how certain heads are is learnt again, tables are matched by rows.
_NOT_MISSED = (*_MATCHED, "certainty.")
_OF_TABLES = (".embed", "_managed_collision_collection.")


def start_from(
    source: RunFolder, built: Built, config: RunConfig, data: PreparedData, ranks: Ranks
) -> str:
    """Fills a model that was just built; returns the name of the checkpoint.

    Every rank must call it.

    Raises:
        UserError: `source` holds no run with a best checkpoint, or one with other sizes or event
            types.
    """
    old_config, old_data = source.open(option="--init-from")
    place = Checkpoints(source.checkpoints, ranks).best_place("--init-from")
    uses_events = config.encoder.events and old_config.encoder.events
    if uses_events and old_data.manifest.events != data.manifest.events:
        raise UserError(f"--init-from: '{source.path}' was trained on other event types")

    checkpoint = _Source(place, _sizes(place), ranks)
    checkpoint.copy_dense(built)
    old = _OldRun(source, old_config, old_data, source.trained_on(old_config, old_data))
    _copy_groups(checkpoint, built, old)
    _copy_tables(checkpoint, built, config, data, old)

    report = "; ".join(checkpoint.report)
    log.info("started from %s of '%s': %s", place.name, source.path, report)
    return place.name


@dataclass(frozen=True)
class _OldRun:
    """The run that values are copied from.

    Attributes:
        folder: its folder.
        config: its configuration.
        data: its data set, which may have grown since.
        trained: what it recorded of its data set.
    """

    folder: RunFolder
    config: RunConfig
    data: PreparedData
    trained: TrainedOn


def _sizes(place: Path) -> dict[str, tuple[int, ...]]:
    """Returns the sizes of the model's tensors in a checkpoint, by their names in the model."""
    prefix = key_in_model("")
    sizes = {}
    for key, entry in Reader(place).metadata.state_dict_metadata.items():
        if key.startswith(prefix) and isinstance(entry, TensorStorageMetadata):
            sizes[key.removeprefix(prefix)] = tuple(entry.size)
    return sizes


def _copy_groups(checkpoint: "_Source", built: Built, old: _OldRun) -> None:
    """Copies heads, group vectors and the gate's decisions, by the names of their groups."""
    old_tree = tree_of(old.config, old.data, old.trained)
    old_names = _names_with_adapters(old, old_tree)
    adapters = zip(built.depths, built.model.heads.adapters, strict=True)
    for level, (depth, weight) in enumerate(adapters):
        names = depth.names
        copied = checkpoint.copy_matched(
            f"heads.adapters.{level}", _get(old_names, level), names, weight
        )
        checkpoint.report.append(f"{copied} of {len(names)} heads at level {level + 1}")

    # The last level has no group vectors, so the lengths differ.
    tree = built.model.tree
    embeddings = zip(tree.group_names, built.model.heads.embeddings, strict=False)
    for level, (names, weight) in enumerate(embeddings):
        copied = checkpoint.copy_matched(
            f"heads.embeddings.{level}", _get(old_tree.group_names, level), names, weight
        )
        checkpoint.report.append(f"{copied} of {len(names)} group vectors at level {level + 1}")

    # All parameters of the gate have one slice for each item set, so one count is that of all.
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
    checkpoint: "_Source", built: Built, config: RunConfig, data: PreparedData, old: _OldRun
) -> None:
    """Copies rows of the item table by original ids, and of the tables of features by values."""
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


class _Source:
    """A checkpoint that values are copied from, and a report of what was found in it."""

    def __init__(self, place: Path, sizes: dict[str, tuple[int, ...]], ranks: Ranks) -> None:
        self.place = place
        self.sizes = sizes
        self.ranks = ranks
        self.report: list[str] = []

    def copy_dense(self, built: Built) -> None:
        """Copies everything that is matched by its own name.

        Raises:
            UserError: a parameter has another size in the checkpoint.
        """
        of_tables = [*built.model.table.parameters(), *_parameters_of_features(built)]
        table_ids = {id(parameter) for parameter in of_tables}
        parameters = {
            name: parameter
            for name, parameter in built.model.named_parameters()
            if id(parameter) not in table_ids and not name.startswith(_MATCHED)
        }

        for name, parameter in parameters.items():
            size = tuple(parameter.shape)
            old_size = self.sizes.get(name, size)
            if old_size != size:
                raise UserError(
                    f"--init-from: {name} is {list(old_size)} there and {list(size)} here: "
                    "give the model the same sizes"
                )

        loaded = {
            name: torch.empty_like(parameter, device="cpu")
            for name, parameter in parameters.items()
            if name in self.sizes
        }
        self._load(loaded)
        for name, value in loaded.items():
            _fill(parameters[name], value)

        report = f"{len(loaded)} of {len(parameters)} parameters of encoder and score"
        left = self._left_out(parameters)
        if left:
            report += f" ({len(left)} of the other run have no place here: {', '.join(left[:3])})"
        self.report.append(report)

    def _left_out(self, parameters: dict[str, Tensor]) -> list[str]:
        """Returns names of the checkpoint's tensors that are not used, though they should be."""
        left = []
        for name in self.sizes:
            is_known = name in parameters or name.startswith(_NOT_MISSED)
            if not is_known and not any(part in name for part in _OF_TABLES):
                left.append(name)
        return left

    def copy_matched(
        self, name: str, old_names: list[str], new_names: list[str], weight: Tensor
    ) -> int:
        """Copies the slices of `weight` whose names the checkpoint has; returns how many these are.

        Args:
            name: the tensor's name in the checkpoint.
            old_names: the names of its slices.
            new_names: the names of the slices of `weight`.

        Raises:
            UserError: the slices have another form in the checkpoint.
        """
        if name not in self.sizes:
            return 0
        old_index_of = {old_name: index for index, old_name in enumerate(old_names)}
        old_indices = []
        new_indices = []
        for index, new_name in enumerate(new_names):
            if new_name in old_index_of:
                old_indices.append(old_index_of[new_name])
                new_indices.append(index)
        if not new_indices:
            return 0

        if self.sizes[name][1:] != tuple(weight.shape[1:]):
            raise UserError(
                f"--init-from: {name} is of another form there: give model.dim and "
                "priors.adapters alike"
            )
        old_weight = torch.empty(self.sizes[name])
        self._load({name: old_weight})
        whole = weight.detach().cpu().clone()
        whole[torch.tensor(new_indices)] = old_weight[torch.tensor(old_indices)]
        _fill(weight, whole)
        return len(new_indices)

    def whole(self, ending: str) -> Tensor | None:
        """Loads the int64 tensor whose name has this ending; None if there is none."""
        name = self._name(ending)
        if name is None:
            return None
        value = torch.empty(self.sizes[name], dtype=torch.int64)
        self._load({name: value})
        return value

    def copy_rows(self, table: str, old_row: np.ndarray, rows: int, own: OwnRows) -> None:
        """Copies the rank's rows that the checkpoint has.

        Blocks of the old table go to all ranks, one after another.

        Args:
            old_row: for each row that the rank owns, its row in the old table; -1 for none.
            rows: the number of rows of the table.

        Raises:
            UserError: the table has another width in the checkpoint.
        """
        name = self._name(f"embeddings.{table}.weight")
        if name is None:
            self.report.append(f"0 of {rows:,} {table}s")
            return
        if self.sizes[name][1] != own.plan.table.columns:
            raise UserError(
                f"--init-from: {name} is of another width there: give the model the same sizes"
            )

        old_row_tensor = torch.from_numpy(old_row)
        shard = own.fetch()

        # Each rank loads an equal part of the old table, whatever the rows that it needs.
        mesh = init_device_mesh("cpu", (self.ranks.world,))
        part = sharded_zeros(*self.sizes[name], device_mesh=mesh, placements=[ShardedBy(0)])
        self._load({name: part})

        for first, block in self._blocks(part.to_local(), self.sizes[name]):
            in_block = (old_row_tensor >= first) & (old_row_tensor < first + len(block))
            index = in_block.nonzero().squeeze(1)
            values = block[old_row_tensor[index] - first].to(shard.rows.device)
            with torch.no_grad():
                shard.rows[index.to(shard.rows.device)] = values
        own.store(shard)

        copied = int(self.ranks.total((old_row_tensor >= 0).sum()))
        self.report.append(f"{copied:,} of {rows:,} {table}s")

    def _blocks(self, part: Tensor, size: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
        """Yields the whole old table on every rank, block after block, from the parts of the ranks.

        Yields (first row, rows) of each block.
        """
        rows_of_rank = -(-size[0] // self.ranks.world)  # rounded up, as DTensor shards
        for rank in range(self.ranks.world):
            held = max(0, min(rows_of_rank, size[0] - rank * rows_of_rank))
            for start in range(0, held, _ROWS_AT_A_TIME):
                rows = min(_ROWS_AT_A_TIME, held - start)
                block = torch.empty(rows, size[1])
                if rank == self.ranks.rank:
                    block = part[start : start + rows].contiguous()
                if self.ranks.world > 1:
                    dist.broadcast(block, src=rank, group=self.ranks.side)
                yield rank * rows_of_rank + start, block

    def _name(self, ending: str) -> str | None:
        return next((name for name in self.sizes if name.endswith(ending)), None)

    def _load(self, state: dict[str, Tensor]) -> None:
        load({MODEL: state}, self.place, self.ranks)


def _parameters_of_features(built: Built) -> list[Tensor]:
    return [] if built.model.features is None else list(built.model.features.parameters())


def _fill(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def _get(names: list[list[str]], level: int) -> list[str]:
    """Returns the names of a level; none if the other run has fewer levels."""
    return names[level] if level < len(names) else []


def _values(config: RunConfig, data: PreparedData, items: int | None = None) -> dict[str, pa.Array]:
    """Returns the values that the rows of each feature's table are for, as texts."""
    features = load_features(config.encoder.item_features, data, items)
    return {table_of_feature(feature.name): feature.values for feature in features}
