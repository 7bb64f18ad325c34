"""Runs a function on several real processes over gloo and collects what each returns."""

import os
import tempfile
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing
from forks import METHOD, meeting_port


def _one(rank, world, port_file, function, arguments, answers):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1"
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port_file)
    torch.set_num_threads(1)
    torch.save(function(*arguments), Path(answers) / f"{rank}.pt")


def run_on_ranks(world, function, *arguments, fresh=False):
    """[function(*arguments) on rank 0, 1, ...]; the function must be importable; it joins the ranks by itself.

    One rank needs no process of its own.

    Args:
        fresh: in interpreters of their own, which take the memory that a user's processes take.
    """
    if world == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [function(*arguments)]
        finally:
            torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as answers:
        given = (world, meeting_port(), function, arguments, answers)
        multiprocessing.start_processes(
            _one, given, nprocs=world, start_method="spawn" if fresh else METHOD
        )
        return [
            torch.load(Path(answers) / f"{rank}.pt", weights_only=False) for rank in range(world)
        ]
