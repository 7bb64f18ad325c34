"""Processes of this machine that are one another's ranks, and the last line that each prints."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

_POLL = 0.1  # seconds


def last_lines(
    ranks: int, name: str, module: str, arguments: Sequence[str], threads: int
) -> list[str]:
    """Runs a module on this number of processes, and returns the last line of each, by rank.

    When one fails, the others are ended, since they would wait for it.

    Args:
        ranks: number of processes.
        name: what they do, for the error's message.
        module: module that each of them runs.
        arguments: command-line arguments of the module.
        threads: number of threads of each process.

    Raises:
        RuntimeError: one failed; the message has its exit code and the end of its standard error.
    """
    launch = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        # Set if a launcher started this process; the ranks must then make a store themselves.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", module, *arguments]

    # Files instead of pipes: a process would wait once a pipe that nobody reads is full.
    outputs: list[tuple[IO[bytes], IO[bytes]]] = [
        (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115
        for _ in range(ranks)
    ]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=out,
            stderr=err,
        )
        for rank, (out, err) in enumerate(outputs)
    ]
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(_POLL)
    finally:
        # Before the others are killed, which gives them an exit code, too.
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        for process in processes:
            process.kill()
            process.wait()

    texts = [(_read(out), _read(err)) for out, err in outputs]
    # One of them explains the others, which mostly fail because it is gone.
    for rank in failed:
        raise RuntimeError(
            f"{name}, rank {rank}: exit code {processes[rank].returncode}\n{texts[rank][1][-2000:]}"
        )
    return [out.strip().splitlines()[-1] for out, _ in texts]


def _read(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def _free_port() -> int:
    """Returns a port where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
