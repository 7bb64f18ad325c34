"""TorchRec's estimate of a shard's memory, corrected for FBGEMM's optimizer state.

TorchRec counts the state of row-wise Adagrad in the precision of the rows, and only once for all
column shards. FBGEMM keeps this state in float32, and each column shard has separate state.
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
_STATE_NUMBER = 4  # bytes of a number of optimizer state
_CACHED = 0.2  # share of the rows that a GPU caches: TorchRec's UVM_CACHING_RATIO


@dataclass(frozen=True)
class Memory:
    """The memory of a rank, in bytes.

    Attributes:
        table: the rows on the device, or the part of the rows that the device caches.
        optimizer: the optimizer state on the device.
        buffers: the ids and vectors of a step's lookups.
        dense: parameters, gradients and optimizer state of the dense model.
        activations: all other tensors of a step, at the moment when they need most memory.
        reserved: memory that is kept free, for needs that are not estimated.
        host: rows and optimizer state in the host's memory.
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
        """The bytes that are used on the device, without the reserved ones."""
        return self.table + self.optimizer + self.buffers + self.dense + self.activations

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


def state_bytes(optimizer: str, rows: int, columns: int) -> int:
    """Returns the bytes of a shard's optimizer state.

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
    """Divides TorchRec's estimate of a shard into kinds of memory.

    Args:
        size: [rows, columns] of the shard.
        storage: TorchRec's estimate.
    """
    rows, columns = size
    table = rows * columns * option.tensor.element_size()
    state = state_bytes(optimizer, rows, columns)
    if option.compute_kernel == "fused":
        whole = storage.ddr if device == "cpu" else storage.hbm
        return Memory(table=table, optimizer=state, buffers=whole - table - state)

    # Rows are in the host's memory. The bytes of the cache are counted as TorchRec counts them.
    cache = 0
    if option.compute_kernel == "fused_uvm_caching":
        ratio = option.cache_load_factor or _CACHED
        # For the index of the cache, TorchRec adds 4 bytes per row and 16 per cached row.
        cached = table + _counted_by_torchrec(option, table)
        cache = math.ceil(cached * ratio + rows * (4 + 16 * ratio))
    return Memory(table=cache, buffers=storage.hbm - cache, host=storage.ddr)


def _counted_by_torchrec(option: ShardingOption, table: int) -> int:
    """Returns the bytes of optimizer state that TorchRec counts for a shard of `table` bytes."""
    # `apply_optimizer_in_backward` sets this attribute, and TorchRec reads it in the same way.
    optimizer = getattr(option.tensor, "_optimizer_classes", [None])[0]
    factors = {SGD: 0.0, Adam: 2.0, RowWiseAdagrad: 1 / option.tensor.shape[-1]}
    return math.ceil(table * factors.get(optimizer, 1.0))


class StorageEstimator(EmbeddingStorageEstimator):
    """TorchRec's estimator, corrected for the optimizer state that FBGEMM keeps."""

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
            # The state is in the same memory as the rows.
            on_host = self._topology.compute_device == "cpu" or option.compute_kernel != "fused"

            for shard in option.shards:
                rows, columns = shard.size
                table = rows * columns * option.tensor.element_size()
                counted = _counted_by_torchrec(option, table)
                more = state_bytes(self._optimizer, rows, columns) - counted
                if on_host:
                    shard.storage += Storage(hbm=0, ddr=more)
                else:
                    shard.storage += Storage(hbm=more, ddr=0)


class Reservation(FixedPercentageStorageReservation):
    """Reserves bytes on every device, including CPUs, where TorchRec's reservations do nothing."""

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
        # TorchRec's reservation reserves 0 % here and returns a copy of the topology.
        reserved: Topology = super().reserve(topology, batch_size, module, sharders, constraints)
        for device in reserved.devices:
            if topology.compute_device == "cpu":
                device.storage.ddr = max(0, device.storage.ddr - self._size)
            else:
                device.storage.hbm = max(0, device.storage.hbm - self._size)
        self._last_reserved_topology = reserved
        return reserved
