"""Memory of a shard as TorchRec estimates it, with the optimizer state as FBGEMM really keeps it, and what is left out.

TorchRec counts row-wise state in the precision of the rows and once over all column shards; FBGEMM keeps float32, and
each column shard has its own.
"""

import math
from dataclasses import dataclass

from torch import nn
from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    SharderDataMap,
    ShardingOption,
    Storage,
    Topology,
)
from torchrec.distributed.types import ModuleSharder
from torchrec.optim import SGD, Adagrad, Adam, RowWiseAdagrad

OPTIMIZER_CLASSES = {
    "rowwise-adagrad": RowWiseAdagrad,
    "sgd": SGD,
    "adagrad": Adagrad,
    "adam": Adam,
}
_STATE_NUMBER = 4  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank.

    Attributes:
        table: rows on the device, or the part of them that is cached there.
        optimizer: state on the device.
        buffers: ids and vectors of a step's lookups.
        dense: parameters, gradients and optimizer of the dense model.
        activations: what a step keeps besides, at its fullest moment.
        reserved: for what is not estimated.
        host: rows and state in the host's memory.
    """

    table: int = 0
    optimizer: int = 0
    buffers: int = 0
    dense: int = 0
    activations: int = 0
    reserved: int = 0
    host: int = 0

    @property
    def used(self) -> int:
        """Of the device, without what is reserved."""
        return self.table + self.optimizer + self.buffers + self.dense + self.activations

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


def state_bytes(optimizer: str, rows: int, columns: int) -> int:
    """Of a shard's fused optimizer.

    >>> state_bytes("rowwise-adagrad", 1000, 64), state_bytes("adam", 1000, 64)
    (4000, 512000)
    """
    numbers = {
        "rowwise-adagrad": rows,
        "sgd": 0,
        "adagrad": rows * columns,
        "adam": 2 * rows * columns,
    }
    return numbers[optimizer] * _STATE_NUMBER


def memory_of(
    option: ShardingOption, size: list[int], storage: Storage, optimizer: str, device: str
) -> Memory:
    """What a shard of [rows, columns] takes, by kind."""
    rows, columns = size
    table = rows * columns * option.tensor.element_size()
    state = state_bytes(optimizer, rows, columns)
    if option.compute_kernel == "fused":
        whole = storage.ddr if device == "cpu" else storage.hbm
        return Memory(table=table, optimizer=state, buffers=whole - table - state)
    ratio = option.cache_load_factor or 0.2  # TorchRec's UVM_CACHING_RATIO
    cached = table + _counted_by_torchrec(option, table)
    cache = (
        math.ceil(cached * ratio + rows * (4 + 16 * ratio))
        if option.compute_kernel == "fused_uvm_caching"
        else 0
    )
    return Memory(table=cache, buffers=storage.hbm - cache, host=storage.ddr)


def _counted_by_torchrec(option: ShardingOption, table: int) -> int:
    """Bytes of optimizer state that TorchRec's estimate of a shard of `table` bytes has."""
    chosen = getattr(option.tensor, "_optimizer_classes", [None])[0]
    factor = {SGD: 0.0, Adam: 2.0, RowWiseAdagrad: 1 / option.tensor.shape[-1]}.get(chosen, 1.0)
    return math.ceil(table * factor)


class StorageEstimator(EmbeddingStorageEstimator):
    """TorchRec's, with the state that FBGEMM keeps."""

    def __init__(
        self, topology: Topology, constraints: dict[str, ParameterConstraints], optimizer: str
    ) -> None:
        super().__init__(topology=topology, constraints=constraints)
        self._optimizer = optimizer

    def estimate(
        self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap
    ) -> None:
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            on_host = self._topology.compute_device == "cpu" or option.compute_kernel != "fused"
            for shard in option.shards:
                rows, columns = shard.size
                counted = _counted_by_torchrec(
                    option, rows * columns * option.tensor.element_size()
                )
                more = state_bytes(self._optimizer, rows, columns) - counted
                shard.storage += Storage(hbm=0 if on_host else more, ddr=more if on_host else 0)


class Reservation(FixedPercentageStorageReservation):
    """Keeps bytes of every device free of tables, on CPUs too, where TorchRec's own reservations keep none."""

    def __init__(self, size: int) -> None:
        super().__init__(percentage=0.0)
        self._size = size

    def reserve(
        self,
        topology: Topology,
        batch_size: int,
        module: nn.Module,
        sharders: list[ModuleSharder[nn.Module]],
        constraints: dict[str, ParameterConstraints] | None = None,
    ) -> Topology:
        reserved: Topology = super().reserve(topology, batch_size, module, sharders, constraints)
        for device in reserved.devices:
            if topology.compute_device == "cpu":
                device.storage.ddr = max(0, device.storage.ddr - self._size)
            else:
                device.storage.hbm = max(0, device.storage.hbm - self._size)
        self._last_reserved_topology = reserved
        return reserved
