"""Machines by name, with the figures that their makers publish, as TorchRec's planner needs them."""

import math
from dataclasses import dataclass, replace

from torchrec.distributed.planner.types import (
    BasicCommsBandwidths,
    CollectiveType,
    HardwareConfig,
    KernelConfig,
    Topology,
    TopologyFactory,
    TrainerConfig,
)

from torchrec_priors.common.amounts import in_bytes
from torchrec_priors.common.limits import check_most
from torchrec_priors.errors import UserError, nearest

_GB = 10**9
_MOST_A_NODE = 1024


@dataclass(frozen=True)
class Machine:
    """What one rank has: a GPU and its share of the host, or a process on CPUs.

    Memory is in bytes, bandwidth in bytes per second.

    Attributes:
        name: as --device takes it.
        device: `cuda` or `cpu`.
        ranks_per_node: number of ranks that share the faster link.
        memory: of the device; on CPUs, of a rank.
        memory_bandwidth: of that memory.
        host_memory: a GPU's share of the host's memory; 0 on CPUs.
        host_bandwidth: a GPU's share of that memory's bandwidth.
        host_link_bandwidth: between a device and its host, one way.
        node_bandwidth: between ranks of a node, one way.
        network_bandwidth: of a rank to other nodes, one way.
        about: source of the figures.
    """

    name: str
    device: str
    ranks_per_node: int
    memory: int
    memory_bandwidth: int
    host_memory: int
    host_bandwidth: int
    host_link_bandwidth: int
    node_bandwidth: int
    network_bandwidth: int
    about: str

    def topology(self, ranks: int) -> Topology:
        """Returns this number of machines, as the planner sees them."""
        cpu = self.device == "cpu"
        # On CPUs rows are in the DDR memory, which is then that of the rank.
        if cpu:
            hbm_bytes = 0
            ddr_bytes = self.memory
            ddr_bandwidth = self.memory_bandwidth
        else:
            hbm_bytes = self.memory
            ddr_bytes = self.host_memory
            ddr_bandwidth = self.host_bandwidth

        return TopologyFactory.create_topology(
            trainer_config=TrainerConfig(
                world_size=ranks, local_world_size=min(ranks, self.ranks_per_node)
            ),
            hardware_config=HardwareConfig(
                hbm_cap_bytes=hbm_bytes,
                ddr_cap_bytes=ddr_bytes,
                ssd_cap_bytes=0,
                hbm_mem_bw=_per_ms(self.memory_bandwidth),
                ddr_mem_bw=_per_ms(ddr_bandwidth),
                hbm_to_ddr_mem_bw=_per_ms(self.host_link_bandwidth),
            ),
            kernel_config=KernelConfig(
                compute_device=self.device,
                # Without it the planner takes constants of its own.
                use_hardware_based_bandwidth=True,
                generalized_comms_bandwidths=_Links(
                    inter_host_bw=_per_ms(self.network_bandwidth),
                    intra_host_bw=_per_ms(self.node_bandwidth),
                ),
            ),
        )


class _Links(BasicCommsBandwidths):
    """TorchRec's two bandwidths, except that a single rank sends nothing."""

    def get_bw(
        self, local_world_size: int, world_size: int, collective_type: CollectiveType
    ) -> float:
        if world_size == 1:
            return math.inf
        return super().get_bw(local_world_size, world_size, collective_type)


def _per_ms(bytes_per_s: int) -> float:
    return bytes_per_s / 1000


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "h200", "cuda", 8, 141 * _GB, 4_800 * _GB, 256 * _GB, 76 * _GB, 64 * _GB, 450 * _GB, 50 * _GB,
            "DGX H200: 141 GB of HBM3e at 4.8 TB/s, NVLink 900 GB/s both ways, PCIe 5 x16, "
            "a 400 Gb/s adapter a GPU, 2 TB of host memory",
        ),
        Machine(
            "h100", "cuda", 8, 80 * _GB, 3_350 * _GB, 256 * _GB, 76 * _GB, 64 * _GB, 450 * _GB, 50 * _GB,
            "DGX H100: 80 GB of HBM3 at 3.35 TB/s, NVLink 900 GB/s both ways, PCIe 5 x16, "
            "a 400 Gb/s adapter a GPU, 2 TB of host memory",
        ),
        Machine(
            "a100", "cuda", 8, 80 * _GB, 2_039 * _GB, 256 * _GB, 51 * _GB, 32 * _GB, 300 * _GB, 25 * _GB,
            "DGX A100 80 GB: HBM2e at 2,039 GB/s, NVLink 600 GB/s both ways, PCIe 4 x16, "
            "a 200 Gb/s adapter a GPU, 2 TB of host memory",
        ),
        Machine(
            "cuda", "cuda", 8, 32 << 30, 897 << 30, 128 << 30, 51 << 30, 32 << 30, 600 << 30, 12_800 << 20,
            "TorchRec's own defaults: 32 GiB at 897 GiB/s, 600 GiB/s in a node, "
            "12.5 GiB/s between nodes",
        ),
        Machine(
            "cpu", "cpu", 2, 128 * _GB, 51 * _GB, 0, 51 * _GB, 51 * _GB, 10 * _GB, 12_500_000_000,
            "assumed: a process on a socket with 128 GB at 51 GB/s, 10 GB/s to the other, "
            "100 Gb/s to other nodes",
        ),
    )
}  # fmt: skip


def machine_of(name: str, changes: dict[str, str | int | None]) -> Machine:
    """Returns a machine by its name, with other figures if they are given.

    Args:
        name: a key of `MACHINES`.
        changes: figures by name of the field; amounts as users write them, such as "141GB"; None
            for the published figure.

    Raises:
        UserError: no machine has this name, a figure is not an amount, or it has no effect.
    """
    if name not in MACHINES:
        raise UserError(f"--device: there is no '{name}': {nearest(name, MACHINES)}")
    machine = MACHINES[name]

    figures: dict[str, int] = {}
    for field, value in changes.items():
        option = f"--{field.replace('_', '-')}"
        if value is None:
            continue
        if machine.device == "cpu" and field.startswith("host_"):
            raise UserError(
                f"{option} has no effect on CPUs, whose rows are in --memory: leave it out"
            )
        figures[field] = value if isinstance(value, int) else in_bytes(value, option)

    if figures.get("ranks_per_node", 1) < 1:
        raise UserError(f"--ranks-per-node must be at least 1, not {figures['ranks_per_node']}")
    check_most("--ranks-per-node", figures.get("ranks_per_node", 1), _MOST_A_NODE)
    return replace(machine, **figures)  # type: ignore[arg-type]
