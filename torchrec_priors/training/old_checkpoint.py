"""Copies values from the checkpoint of another run into a new model.

Most parameters are copied as a whole. Parameters of heads and of the gate are copied slice by
slice, because each slice belongs to a group with a name. Tables are copied row by row.
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
from torchrec_priors.training.built import Built
from torchrec_priors.training.checkpoint.checkpoint import load
from torchrec_priors.training.checkpoint.keys import MODEL, key_in_model
from torchrec_priors.training.checkpoint.reader import Reader

# The number of rows of the old table that every rank has in memory at the same time.
_ROWS_AT_A_TIME = 1 << 16

# Parameters with these prefixes are copied slice by slice, by the names of groups.
_MATCHED = ("heads.", "gate.")
# Tensors of the checkpoint that may stay unused without a message. Training computes the certainty
# of the heads again, and tables are copied by rows.
_NOT_MISSED = (*_MATCHED, "certainty.")
_OF_TABLES = (".embed", "_managed_collision_collection.")


class OldCheckpoint:
    """A checkpoint that values are copied from. Every rank must make the same calls.

    Attributes:
        place: the checkpoint's folder.
        sizes: the sizes of the tensors in the checkpoint, by their names in the model.
        report: phrases for a message about what was copied, such as "3 of 4 heads at level 1".
    """

    def __init__(self, place: Path, ranks: Ranks) -> None:
        self.place = place
        self.sizes = _sizes(place)
        self.ranks = ranks
        self.report: list[str] = []

    def copy_dense(self, built: Built, left_out: tuple[str, ...] = ()) -> None:
        """Copies the parameters that are not copied by slices or by rows, matched by their names.

        Args:
            built: the new model.
            left_out: parameters whose names begin like this keep their initial values.

        Raises:
            UserError: a parameter has another size in the checkpoint.
        """
        of_tables = [*built.model.table.parameters(), *_parameters_of_features(built)]
        table_ids = {id(parameter) for parameter in of_tables}
        parameters = {
            name: parameter
            for name, parameter in built.model.named_parameters()
            if id(parameter) not in table_ids and not name.startswith((*_MATCHED, *left_out))
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

        # A tensor that the model no longer has may be a mistake in the configuration, so the report
        # names it.
        report = f"{len(loaded)} of {len(parameters)} parameters of encoder and score"
        unused = self._unused(parameters)
        if unused:
            names = ", ".join(unused[:3])
            report += f" ({len(unused)} of the other run have no place here: {names})"
        self.report.append(report)

    def _unused(self, parameters: Mapping[str, Tensor]) -> list[str]:
        """Returns the names of tensors in the checkpoint for which this model has no parameter."""
        unused = []
        for name in self.sizes:
            is_known = name in parameters or name.startswith(_NOT_MISSED)
            if not is_known and not any(part in name for part in _OF_TABLES):
                unused.append(name)
        return unused

    def copy_matched(
        self, name: str, old_names: list[str], new_names: list[str], weight: Tensor
    ) -> int:
        """Copies slices into `weight` if the checkpoint has slices with the same names.

        Args:
            name: the tensor's name in the checkpoint.
            old_names: the names of the slices of that tensor.
            new_names: the names of the slices of `weight`.

        Returns:
            The number of slices that were copied.

        Raises:
            UserError: the slices have another shape in the checkpoint.
        """
        if name not in self.sizes:
            return 0

        # The indices of the slices that both tensors have, in pairs.
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
                f"--init-from: {name} has another shape there: use the same model.dim and "
                "priors.adapters as the other run"
            )

        # The other slices of `weight` keep their initial values.
        old_weight = torch.empty(self.sizes[name])
        self._load({name: old_weight})
        whole = weight.detach().cpu().clone()
        whole[torch.tensor(new_indices)] = old_weight[torch.tensor(old_indices)]
        _fill(weight, whole)
        return len(new_indices)

    def whole(self, ending: str) -> Tensor | None:
        """Loads the int64 tensor with a name that ends in `ending`; None if there is none."""
        name = self._name(ending)
        if name is None:
            return None
        value = torch.empty(self.sizes[name], dtype=torch.int64)
        self._load({name: value})
        return value

    def copy_rows(self, table: str, old_row: np.ndarray, rows: int, own: OwnRows) -> None:
        """Copies rows of the old table into the rows that this rank is responsible for.

        The ranks send the old table block by block to all ranks.

        Args:
            table: the name of the table.
            old_row: the row in the old table that each row of this rank is copied from; -1 for a
                row that keeps its initial values.
            rows: the number of rows of the new table, for the report.
            own: the rows of the new table that this rank is responsible for.

        Raises:
            UserError: the rows have another width in the checkpoint.
        """
        name = self._name(f"embeddings.{table}.weight")
        if name is None:
            self.report.append(f"0 of {rows:,} {table}s")
            return
        if self.sizes[name][1] != own.plan.table.columns:
            raise UserError(
                f"--init-from: {name} has another width there: give the model the same sizes"
            )

        old_row_tensor = torch.from_numpy(old_row)
        shard = own.fetch()

        # Each rank loads an equal part of the old table, independently of the rows that it needs.
        mesh = init_device_mesh("cpu", (self.ranks.world,))
        part = sharded_zeros(*self.sizes[name], device_mesh=mesh, placements=[ShardedBy(0)])
        self._load({name: part})

        # A rank may need rows from any part of the old table, so every rank receives every block.
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
        """Yields the whole old table on every rank, block by block, as (first row, rows).

        Args:
            part: this rank's part of the old table.
            size: the size of the whole old table.
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
    """Returns the sizes of the tensors in a checkpoint, by their names in the model."""
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
