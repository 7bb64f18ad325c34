"""Joins this process with the ranks that a launcher has started, or runs it as a single rank."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock

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
    """This process as one of the ranks of a command.

    Attributes:
        rank: the index of this process, from 0 on.
        world: the number of all processes.
        device: the device of the model.
        side: a separate process group for this project's own collectives, so that they never
            interleave with those of TorchRec and DDP.
        timeout: the time after which a collective fails if other ranks do not join it.
        attempt: a name for this start of all processes; it changes each time a launcher restarts
            them.
        where: what this rank is doing; code that runs a collective notes it here.
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
        """The values of this object that a roll call needs (`roll_call.py`)."""
        return Meeting(self.rank, self.world, self.timeout, self.attempt, self.where)

    @property
    def share(self) -> Share:
        """This rank's share of work that is divided among the ranks."""
        return Share(self.rank, self.world)

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a tensor over all ranks; the argument may be changed.

        Every rank must call it.
        """
        if self.world == 1:
            return tensor
        on_device = tensor.to(self.device)
        dist.all_reduce(on_device, group=self.side)
        return on_device.to(tensor.device)

    def agree(self, decision: bool) -> bool:
        """Returns rank 0's decision on every rank. Every rank must call it."""
        # A sum over ranks to which only rank 0 contributes.
        return bool(self.total(torch.tensor(int(decision and self.leads))).item())

    def exchange(self) -> Exchange:
        """Returns the functions by which these ranks exchange tensors in a step."""
        return Exchange(
            gather=lambda piece, slots_W: gather_slots(piece, slots_W, self.side),
            total=self.total,
            ranks=self.world,
        )


_inside = 0  # number of open `join` blocks that use the process group of this module
_counting = Lock()  # one thread may leave a block while another one enters a block
_attempt = ""  # name of the attempt at which this process group was created


@contextmanager
def join(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Joins the ranks of a launcher (torchrun, TorchX) until the block ends.

    Without a launcher, the process is the only rank. Several blocks of one process may be open at
    the same time: they share one process group, and the last block that ends destroys it. If the
    caller has created a process group, this group is used and not destroyed.

    Raises:
        UserError: environment variables of a launcher are invalid or incomplete.
        LostRanksError: other ranks did not join, or an error inside the block shows that they are
            stuck or have ended.
    """
    global _inside, _attempt

    launch = read_launch()
    device = _device(launch)
    # If a process group exists although no block is open, the caller has created it.
    is_callers = dist.is_initialized() and not _inside
    if not dist.is_initialized():
        _attempt = _meet(launch, device, timeout)
    attempt = "" if is_callers else _attempt
    if not is_callers:
        with _counting:
            _inside += 1

    lost = False
    side: dist.ProcessGroup | None = None
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
        is_last = False
        if not is_callers:
            with _counting:
                _inside -= 1
                is_last = not _inside
        # If ranks are lost, destroying a group would wait for them. A group has threads and files
        # of its own, so it must not outlive its block, as the process may run for months.
        if is_last and not lost:
            dist.destroy_process_group()
        elif side is not None and not lost:
            dist.destroy_process_group(side)


def _device(launch: Launch | None) -> torch.device:
    """Returns the device of this rank: the GPU with the number of its local rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")

    number = 0
    gpus = torch.cuda.device_count()
    if launch is not None and launch.world > 1:
        if launch.local_rank is None:
            raise UserError(
                "LOCAL_RANK, the number of this process's GPU, is not set: start with torchrun or "
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
    """Creates the process group of all ranks; returns the name of this attempt."""
    rank = 0
    world = 1
    attempt = ""
    store: dist.Store = dist.HashStore()  # a store for a single process, which needs no port
    if launch is not None and launch.world > 1:
        rank = launch.rank
        world = launch.world
        store, attempt = open_store(launch, timeout)

    # On machines with GPUs, ranks also exchange tensors that are in the CPU's memory.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    except Exception as error:
        lost = lost_ranks(error, Meeting(rank, world, timeout, attempt))
        if lost is None:
            raise
        raise lost from error
    return attempt
