"""Machines by name, with the figures that their makers publish and TorchRec's planner needs."""

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

_GB = 10**9  # bytes, as makers count them
_TERA = 1000 * _GB
_MOST_A_NODE = 1024  # ranks of a node


@dataclass(frozen=True)
class Machine:
    """The hardware of one rank: a GPU and its share of the host, or a process on CPUs.

    Memory is in bytes, bandwidth in bytes per second.

    Attributes:
        name: the value of --device.
        device: `cuda` or `cpu`.
        ranks_per_node: the number of ranks that share the faster link.
        memory: the memory of the device; on CPUs, the memory of a rank.
        memory_bandwidth: the bandwidth of `memory`.
        host_memory: a GPU's share of the host's memory; 0 on CPUs.
        host_bandwidth: a GPU's share of the bandwidth of the host's memory.
        host_link_bandwidth: the bandwidth between a device and its host, one way.
        node_bandwidth: the bandwidth from a rank to other ranks of the node, one way.
        network_bandwidth: the bandwidth from a rank to other nodes, one way.
        about: the source of the figures.
        bf16, fp32: floating-point operations per second at the peak; 0 if not known.
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
    bf16: int = 0
    fp32: int = 0

    def peak(self, precision: str) -> int:
        """Returns the floating-point operations per second at the peak; 0 if not known.

        Args:
            precision: `fp32` or `bf16`.
        """
        return self.bf16 if precision == "bf16" else self.fp32

    def topology(self, ranks: int) -> Topology:
        """Returns the planner's description of this number of ranks on machines of this kind."""
        cpu = self.device == "cpu"
        # On CPUs the rows are in DDR memory, so `memory` means DDR memory there.
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
                # Without this, the planner would use TorchRec's constants.
                use_hardware_based_bandwidth=True,
                generalized_comms_bandwidths=_Links(
                    inter_host_bw=_per_ms(self.network_bandwidth),
                    intra_host_bw=_per_ms(self.node_bandwidth),
                ),
            ),
        )


class _Links(BasicCommsBandwidths):
    """TorchRec's two bandwidths, except that a single rank needs no time to send."""

    def get_bw(
        self, local_world_size: int, world_size: int, collective_type: CollectiveType
    ) -> float:
        # TorchRec would count the time that a rank takes to send to itself.
        if world_size == 1:
            return math.inf
        return super().get_bw(local_world_size, world_size, collective_type)


def _per_ms(bytes_per_s: int) -> float:
    """Returns a bandwidth in bytes per millisecond, TorchRec's unit."""
    return bytes_per_s / 1000


_H200 = Machine(
    "h200",
    device="cuda",
    ranks_per_node=8,
    memory=141 * _GB,
    memory_bandwidth=4_800 * _GB,
    host_memory=256 * _GB,
    host_bandwidth=76 * _GB,
    host_link_bandwidth=64 * _GB,
    node_bandwidth=450 * _GB,
    network_bandwidth=50 * _GB,
    about=(
        "DGX H200: 141 GB of HBM3e at 4.8 TB/s, NVLink 900 GB/s both ways, PCIe 5 x16, "
        "a 400 Gb/s adapter a GPU, 2 TB of host memory"
    ),
    bf16=989 * _TERA,
    fp32=67 * _TERA,
)
_MACHINES = (
    _H200,
    # DGX H100 and DGX H200 differ only in the memory of the GPU.
    replace(
        _H200,
        name="h100",
        memory=80 * _GB,
        memory_bandwidth=3_350 * _GB,
        about=(
            "DGX H100: 80 GB of HBM3 at 3.35 TB/s, NVLink 900 GB/s both ways, PCIe 5 x16, "
            "a 400 Gb/s adapter a GPU, 2 TB of host memory"
        ),
    ),
    Machine(
        "a100",
        device="cuda",
        ranks_per_node=8,
        memory=80 * _GB,
        memory_bandwidth=2_039 * _GB,
        host_memory=256 * _GB,
        host_bandwidth=51 * _GB,
        host_link_bandwidth=32 * _GB,
        node_bandwidth=300 * _GB,
        network_bandwidth=25 * _GB,
        about=(
            "DGX A100 80 GB: HBM2e at 2,039 GB/s, NVLink 600 GB/s both ways, PCIe 4 x16, "
            "a 200 Gb/s adapter a GPU, 2 TB of host memory"
        ),
        bf16=312 * _TERA,
        fp32=19_500 * _GB,
    ),
    Machine(
        "cuda",
        device="cuda",
        ranks_per_node=8,
        memory=32 << 30,
        memory_bandwidth=897 << 30,
        host_memory=128 << 30,
        host_bandwidth=51 << 30,
        host_link_bandwidth=32 << 30,
        node_bandwidth=600 << 30,
        network_bandwidth=12_800 << 20,
        about=(
            "TorchRec's own defaults: 32 GiB at 897 GiB/s, 600 GiB/s in a node, "
            "12.5 GiB/s between nodes"
        ),
    ),
    Machine(
        "cpu",
        device="cpu",
        ranks_per_node=2,
        memory=128 * _GB,
        memory_bandwidth=51 * _GB,
        host_memory=0,
        host_bandwidth=51 * _GB,
        host_link_bandwidth=51 * _GB,
        node_bandwidth=10 * _GB,
        network_bandwidth=12_500_000_000,
        about=(
            "assumed: a process on a socket with 128 GB at 51 GB/s, 10 GB/s to the other, "
            "100 Gb/s to other nodes"
        ),
    ),
)
MACHINES = {machine.name: machine for machine in _MACHINES}


def machine_of(name: str, changes: dict[str, str | int | None]) -> Machine:
    """Returns the machine of a name; figures that the user gives replace the published ones.

    Args:
        name: a key of `MACHINES`.
        changes: field of `Machine` -> figure. Amounts may be written as users write them, such as
            "141GB". None keeps the published figure.

    Raises:
        UserError: no machine has this name, a figure is not an amount, or a figure has no effect.
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
                f"{option} has no effect on CPUs, where rows are in --memory: leave it out"
            )
        if isinstance(value, int):
            figures[field] = value
        else:
            figures[field] = in_bytes(value, option)

    if figures.get("ranks_per_node", 1) < 1:
        raise UserError(f"--ranks-per-node must be at least 1, not {figures['ranks_per_node']}")
    check_most("--ranks-per-node", figures.get("ranks_per_node", 1), _MOST_A_NODE)
    return replace(machine, **figures)  # type: ignore[arg-type]
