"""Joining the ranks of a run: a launcher's, or a single process by itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_priors.data.windows import Share
from torchrec_priors.errors import LostRanksError
from torchrec_priors.looked_up import Exchange
from torchrec_priors.sampling.share import gather_slots
from torchrec_priors.training.rendezvous import launched, open_store
from torchrec_priors.training.roll_call import Where

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank, world: as torch.distributed counts.
        device: where the model lives.
        side: a process group of its own for what this project exchanges, so that it never interleaves with TorchRec's
            and DDP's collectives.
        timeout: after which a collective that others do not join is an error.
        attempt: what tells the processes of this start from those of earlier ones, under a launcher.
        where: what this rank is doing; whoever does something with the others notes it there.
    """

    rank: int
    world: int
    device: torch.device
    side: dist.ProcessGroup
    timeout: timedelta = TIMEOUT
    attempt: str = ""
    where: Where = field(default_factory=Where)

    @property
    def share(self) -> Share:
        return Share(self.rank, self.world)

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks; the argument may be changed."""
        if self.world > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device, group=self.side)
            return on_device.to(tensor.device)
        return tensor

    def agree(self, decision: bool) -> bool:
        """Rank 0's decision, on every rank."""
        return bool(self.total(torch.tensor(int(decision and self.leads))).item())

    def exchange(self) -> Exchange:
        return Exchange(
            gather=lambda piece, slots_W: gather_slots(piece, slots_W, self.side),
            total=self.total,
            ranks=self.world,
        )


_inside = 0  # blocks that are in the process group which this module made


@contextmanager
def join(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Joins the launcher's ranks (torchrun, TorchX), or makes a world of one; leaves when the block ends.

    Blocks of one process may overlap: they are in one process group, which the last to end leaves. A process group that
    the caller has made is used, and left to the caller.
    """
    global _inside
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    callers = dist.is_initialized() and not _inside
    attempt = ""
    if not dist.is_initialized():
        if launched():
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store, attempt = open_store(rank, world, timeout)
        else:
            rank, world, store = 0, 1, dist.HashStore()
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    _inside += not callers
    lost = False
    try:
        side = dist.new_group(timeout=timeout)
        yield Ranks(dist.get_rank(), dist.get_world_size(), device, side, timeout, attempt)
    except LostRanksError:
        lost = True  # leaving would wait for them
        raise
    finally:
        _inside -= not callers
        if not callers and not _inside and not lost:
            dist.destroy_process_group()
