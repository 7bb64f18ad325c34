"""Joins the ranks of a run: those of a launcher, or a single process by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_priors.errors import LostRanksError, UserError
from torchrec_priors.ranks.exchange import Exchange
from torchrec_priors.ranks.gather_slots import gather_slots
from torchrec_priors.ranks.rendezvous import open_store
from torchrec_priors.ranks.roll_call import Meeting, Where, lost_ranks
from torchrec_priors.ranks.share import Share
from torchrec_priors.ranks.variables import Launch, read_launch

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: number of this process, as torch.distributed counts.
        world: number of all processes.
        device: device of the model.
        side: separate process group for what this project exchanges, so it never interleaves with
            TorchRec's and DDP's collectives.
        timeout: time after which a collective that others do not join is an error.
        attempt: name that distinguishes the processes of this start from those of earlier ones,
            under a launcher.
        where: what this rank is doing; code that runs a collective notes it there.
    """

    rank: int
    world: int
    device: torch.device
    side: dist.ProcessGroup
    timeout: timedelta = TIMEOUT
    attempt: str = ""
    where: Where = field(default_factory=Where)

    @property
    def meeting(self) -> Meeting:
        """What a roll call needs to know of this rank."""
        return Meeting(self.rank, self.world, self.timeout, self.attempt, self.where)

    @property
    def share(self) -> Share:
        """This rank's part of common work."""
        return Share(self.rank, self.world)

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks; the argument may be changed."""
        if self.world == 1:
            return tensor
        on_device = tensor.to(self.device)
        dist.all_reduce(on_device, group=self.side)
        return on_device.to(tensor.device)

    def agree(self, decision: bool) -> bool:
        """Rank 0's decision, on every rank."""
        # The sum over ranks, to which only rank 0 adds.
        return bool(self.total(torch.tensor(int(decision and self.leads))).item())

    def exchange(self) -> Exchange:
        """The functions by which these ranks exchange tensors in a step."""
        return Exchange(
            gather=lambda piece, slots_W: gather_slots(piece, slots_W, self.side),
            total=self.total,
            ranks=self.world,
        )


_inside = 0  # number of `join` blocks in the process group that this module created
_attempt = ""  # name of that group's attempt


@contextmanager
def join(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Joins the launcher's ranks (torchrun, TorchX), or makes a world of one; leaves when the block
    ends.

    Blocks of one process may overlap: they share one process group, which the last to end destroys.
    A process group that the caller has created is used, and left to the caller.

    Raises:
        UserError: a launcher's variables in the environment are invalid or incomplete.
        LostRanksError: other ranks did not come, or an error inside the block means that they are
            stuck or gone.
    """
    global _inside, _attempt

    launch = read_launch()
    device = _device(launch)
    # A process group that exists although no block is open is the caller's.
    is_callers = dist.is_initialized() and not _inside
    if not dist.is_initialized():
        _attempt = _meet(launch, device, timeout)
    attempt = "" if is_callers else _attempt
    if not is_callers:
        _inside += 1

    lost = False
    where = Where()
    meeting = Meeting(dist.get_rank(), dist.get_world_size(), timeout, attempt, where)
    try:
        side = dist.new_group(timeout=timeout)
        yield Ranks(meeting.rank, meeting.world, device, side, timeout, attempt, where)
    except LostRanksError:
        lost = True
        raise
    except BaseException as error:
        lost_error = lost_ranks(error, meeting)
        if lost_error is None:
            raise
        lost = True
        raise lost_error from error
    finally:
        if not is_callers:
            _inside -= 1
            # Without the others, leaving would wait for them.
            if not _inside and not lost:
                dist.destroy_process_group()


def _device(launch: Launch | None) -> torch.device:
    """This rank's device: the GPU of its local rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")

    number = 0
    gpus = torch.cuda.device_count()
    if launch is not None and launch.world > 1:
        if launch.local_rank is None:
            raise UserError(
                "LOCAL_RANK is not set, which says which GPU a process has: start with torchrun or "
                "TorchX"
            )
        number = launch.local_rank
    if number >= gpus:
        raise UserError(
            f"LOCAL_RANK is {number}, of a machine with {gpus} GPUs: start at most {gpus} "
            "processes there"
        )

    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _meet(launch: Launch | None, device: torch.device, timeout: timedelta) -> str:
    """Creates the process group of all ranks; returns the name of the attempt."""
    rank = 0
    world = 1
    attempt = ""
    store: dist.Store = dist.HashStore()  # of one process, without a port
    if launch is not None and launch.world > 1:
        rank = launch.rank
        world = launch.world
        store, attempt = open_store(launch, timeout)

    # Tensors of the CPU are exchanged on GPU machines, too.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    except Exception as error:
        lost = lost_ranks(error, Meeting(rank, world, timeout, attempt))
        if lost is None:
            raise
        raise lost from error
    return attempt
