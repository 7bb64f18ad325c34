"""The checkpoint of another run, from which values are copied into a new model.

Parameters are copied whole, by slices with names, or, if they are tables, by rows.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard as ShardedBy
from torch.distributed.tensor import zeros as sharded_zeros

from torchrec_priors.embedding.own_rows import OwnRows
from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.build import Built
from torchrec_priors.training.checkpoint.checkpoint import load
from torchrec_priors.training.checkpoint.keys import MODEL, key_in_model
from torchrec_priors.training.checkpoint.reader import Reader

_ROWS_AT_A_TIME = 1 << 16  # that every rank has in memory

# Parameters with these prefixes are matched by the names of groups, not by their own.
_MATCHED = ("heads.", "gate.")
# These are not missed: how certain heads are is learnt again, tables are matched by rows.
_NOT_MISSED = (*_MATCHED, "certainty.")
_OF_TABLES = (".embed", "_managed_collision_collection.")


class OldCheckpoint:
    """A checkpoint that values are copied from. Every rank must make the same calls.

    Attributes:
        place: its folder.
        sizes: sizes of the model's tensors in it, by their names in the model.
        report: for messages: what was copied, of how many.
    """

    def __init__(self, place: Path, ranks: Ranks) -> None:
        self.place = place
        self.sizes = _sizes(place)
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

        # Checkpoints are loaded into the CPU's memory; the parameters may be on a GPU.
        loaded = {
            name: torch.empty_like(parameter, device="cpu")
            for name, parameter in parameters.items()
            if name in self.sizes
        }
        self._load(loaded)
        for name, value in loaded.items():
            _fill(parameters[name], value)

        # What the model no longer has may be a mistake in the configuration, so it is named.
        report = f"{len(loaded)} of {len(parameters)} parameters of encoder and score"
        left = self._left_out(parameters)
        if left:
            report += f" ({len(left)} of the other run have no place here: {', '.join(left[:3])})"
        self.report.append(report)

    def _left_out(self, parameters: Mapping[str, Tensor]) -> list[str]:
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

        # Pairs of indices of slices with the same name.
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

        # The other slices of `weight` keep their first values.
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

        # A rank's rows may come from anywhere in the old table, so every rank sees every block.
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


def _sizes(place: Path) -> dict[str, tuple[int, ...]]:
    """Returns the sizes of the model's tensors in a checkpoint, by their names in the model."""
    prefix = key_in_model("")
    sizes = {}
    for key, entry in Reader(place).metadata.state_dict_metadata.items():
        if key.startswith(prefix) and isinstance(entry, TensorStorageMetadata):
            sizes[key.removeprefix(prefix)] = tuple(entry.size)
    return sizes


def _parameters_of_features(built: Built) -> list[Tensor]:
    return [] if built.model.features is None else list(built.model.features.parameters())


def _fill(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
