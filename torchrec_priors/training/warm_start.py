"""`train --init-from`: the first values of a run from the best checkpoint of another, matched by name, not by place.

Rows of tables are matched by original ids and values, heads and the gate's decisions by the names of their groups, as a
later log numbers all of them anew. What the other run does not know keeps its own first values, and is counted.
"""

import logging
from collections.abc import Iterator
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
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.table import TABLE, table_of_feature
from torchrec_priors.training.build import Built, tree_of
from torchrec_priors.training.carried_rows import OldRows, carried_rows
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints, load
from torchrec_priors.training.checkpoint.reader import Reader
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.paths import read_paths

log = logging.getLogger(__name__)

_ROWS_AT_A_TIME = 1 << 16
_MATCHED = ("heads.", "gate.")  # by the names of groups, not of parameters


def start_from(
    source: RunFolder, built: Built, config: RunConfig, data: PreparedData, ranks: Ranks
) -> str:
    """Fills a model that was just built; returns the name of the checkpoint. Every rank must call it.

    Raises:
        UserError: `source` holds no run with a best checkpoint, or one whose sizes or event types are others.
    """
    old_config, old_data = source.open(option="--init-from")
    place = Checkpoints(source.checkpoints, ranks).best_place("--init-from")
    if (
        config.encoder.events
        and old_config.encoder.events
        and old_data.manifest.events != data.manifest.events
    ):
        raise UserError(f"--init-from: '{source.path}' was trained on other event types")
    sizes = {
        name.removeprefix("model."): tuple(entry.size)
        for name, entry in Reader(place).metadata.state_dict_metadata.items()
        if name.startswith("model.") and isinstance(entry, TensorStorageMetadata)
    }
    filled = _Source(place, sizes, ranks)
    filled.dense(built)
    trained = source.trained_on(old_config, old_data)
    old_tree = tree_of(old_config, old_data, trained)
    old_depths = nodes(
        old_tree, read_paths(source.paths, old_tree).positives_K, old_config.priors.min_positives
    )
    old_names = [depth.names for depth in old_depths]
    for number, (new, weight) in enumerate(
        zip(built.depths, built.model.heads.adapters, strict=True)
    ):
        found = filled.matched(
            f"heads.adapters.{number}", _get(old_names, number), new.names, weight
        )
        filled.report.append(f"{found} of {len(new.names)} heads at level {number + 1}")
    embedded = zip(built.model.tree.group_names, built.model.heads.embeddings, strict=False)
    for depth, (names, weight) in enumerate(embedded):
        found = filled.matched(
            f"heads.embeddings.{depth}", _get(old_tree.group_names, depth), names, weight
        )
        filled.report.append(f"{found} of {len(names)} group vectors at level {depth + 1}")
    if built.model.gate is not None:
        sets = built.model.tree.item_set_names
        for name, weight in built.model.gate.named_parameters():
            found = filled.matched(f"gate.{name}", old_tree.item_set_names, sets, weight)
        filled.report.append(f"{found} of {len(sets)} decisions of the gate")
    old_ids = _values(old_config, old_data, trained.items)
    new_ids = _values(config, data)
    for table, own in built.tables.items():
        if table == TABLE:
            old_rows = carried_rows(
                built, config, data, OldRows(old_config, old_data, trained, filled.whole)
            )
            filled.rows(table, old_rows, built.model.item_rows.rows, own)
        elif table in old_ids:
            there = pc.fill_null(pc.index_in(new_ids[table], old_ids[table]), -1).to_numpy(
                zero_copy_only=False
            )
            filled.rows(table, there[own.first : own.last].astype(np.int64), len(there), own)
        else:
            filled.report.append(f"0 of {len(new_ids[table]):,} {table}s")
    log.info("started from %s of '%s': %s", place.name, source.path, "; ".join(filled.report))
    return place.name


class _Source:
    """A checkpoint that values are copied from, and what was and was not found there."""

    def __init__(self, place: Path, sizes: dict[str, tuple[int, ...]], ranks: Ranks) -> None:
        self.place = place
        self.sizes = sizes
        self.ranks = ranks
        self.report: list[str] = []

    def dense(self, built: Built) -> None:
        """Everything that is matched by its own name."""
        tables = {
            id(parameter)
            for parameter in (*built.model.table.parameters(), *_side_parameters(built))
        }
        own = {
            name: parameter
            for name, parameter in built.model.named_parameters()
            if id(parameter) not in tables and not name.startswith(_MATCHED)
        }
        for name, parameter in own.items():
            if name in self.sizes and self.sizes[name] != tuple(parameter.shape):
                there = list(self.sizes[name])
                here = list(parameter.shape)
                raise UserError(
                    f"--init-from: {name} is {there} there and {here} here: give the model the same sizes"
                )
        found = {
            name: torch.empty_like(value, device="cpu")
            for name, value in own.items()
            if name in self.sizes
        }
        self._load(found)
        for name, value in found.items():
            _fill(own[name], value)
        self.report.append(f"{len(found)} of {len(own)} parameters of encoder and score")
        known = (*_MATCHED, "certainty.")  # how certain heads are is learned anew
        of_tables = (".embed", "_managed_collision_collection.")
        left = [name for name in self.sizes if name not in own and not name.startswith(known)]
        left = [name for name in left if not any(part in name for part in of_tables)]
        if left:
            self.report[-1] += (
                f" ({len(left)} of the other run have no place here: {', '.join(left[:3])})"
            )

    def matched(self, name: str, old_names: list[str], new_names: list[str], weight: Tensor) -> int:
        """The slices of `weight` whose names were there, and how many these are."""
        place_of = {old: place for place, old in enumerate(old_names)} if name in self.sizes else {}
        pairs = [(place_of[new], place) for place, new in enumerate(new_names) if new in place_of]
        if pairs:
            if self.sizes[name][1:] != tuple(weight.shape[1:]):
                raise UserError(
                    f"--init-from: {name} is of another form there: give model.dim and priors.adapters alike"
                )
            found = torch.empty(self.sizes[name])
            self._load({name: found})
            there, here = (torch.tensor(places) for places in zip(*pairs, strict=True))
            whole = weight.detach().cpu().clone()
            whole[here] = found[there]
            _fill(weight, whole)
        return len(pairs)

    def whole(self, end: str) -> Tensor | None:
        """The int64 tensor whose name ends so; None where there is none."""
        name = next((key for key in self.sizes if key.endswith(end)), None)
        if name is None:
            return None
        found = torch.empty(self.sizes[name], dtype=torch.int64)
        self._load({name: found})
        return found

    def rows(self, table: str, mine_there: np.ndarray, rows: int, own: OwnRows) -> None:
        """The rank's rows that were there; blocks of the old table go to all ranks, one after another.

        Args:
            mine_there: for each row that the rank answers for, its place in the old table; -1 for none.
            rows: of the table.
        """
        name = next((key for key in self.sizes if key.endswith(f"embeddings.{table}.weight")), None)
        if name is None:
            self.report.append(f"0 of {rows:,} {table}s")
            return
        if self.sizes[name][1] != own.plan.table.columns:
            raise UserError(
                f"--init-from: {name} is of another width there: give the model the same sizes"
            )
        mine = torch.from_numpy(mine_there)
        shard = own.fetch()
        mesh = init_device_mesh("cpu", (self.ranks.world,))
        part = sharded_zeros(*self.sizes[name], device_mesh=mesh, placements=[ShardedBy(0)])
        self._load({name: part})
        for first, block in self._blocks(part.to_local(), self.sizes[name]):
            here = ((mine >= first) & (mine < first + len(block))).nonzero().squeeze(1)
            with torch.no_grad():
                shard.rows[here.to(shard.rows.device)] = block[mine[here] - first].to(
                    shard.rows.device
                )
        own.store(shard)
        found = int(self.ranks.total((mine >= 0).sum()))
        self.report.append(f"{found:,} of {rows:,} {table}s")

    def _blocks(self, part: Tensor, size: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) of the whole old table on every rank, from the parts that ranks hold."""
        rows_a_rank = -(-size[0] // self.ranks.world)
        for rank in range(self.ranks.world):
            held = max(0, min(rows_a_rank, size[0] - rank * rows_a_rank))
            for start in range(0, held, _ROWS_AT_A_TIME):
                rows = min(_ROWS_AT_A_TIME, held - start)
                mine = rank == self.ranks.rank
                block = (
                    part[start : start + rows].contiguous() if mine else torch.empty(rows, size[1])
                )
                if self.ranks.world > 1:
                    dist.broadcast(block, src=rank, group=self.ranks.side)
                yield rank * rows_a_rank + start, block

    def _load(self, state: dict[str, Tensor]) -> None:
        load({"model": state}, self.place, self.ranks)


def _side_parameters(built: Built) -> list[Tensor]:
    return [] if built.model.features is None else list(built.model.features.parameters())


def _fill(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def _get(names: list[list[str]], place: int) -> list[str]:
    return names[place] if place < len(names) else []


def _values(config: RunConfig, data: PreparedData, items: int | None = None) -> dict[str, pa.Array]:
    """What the rows of each table of a feature stand for, as texts."""
    features = load_features(config.encoder.item_features, data, items)
    return {table_of_feature(feature.name): feature.values for feature in features}
