"""Processes of this machine that are one another's ranks, and what each of them says last."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

_LOOK = 0.1  # seconds


def last_lines(
    ranks: int, name: str, module: str, arguments: Sequence[str], threads: int
) -> list[str]:
    """What so many processes of a module print last, by rank. When one fails, the others are ended: they would wait.

    Args:
        name: of what they do, should one fail.
        threads: of each.

    Raises:
        RuntimeError: one failed, with its exit code and the end of what it said.
    """
    places = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(ranks),
    }
    places["LOCAL_WORLD_SIZE"] = str(ranks)
    places["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # where a launcher started this process
    command = [sys.executable, "-m", module, *arguments]
    said: list[tuple[IO[bytes], IO[bytes]]] = [
        (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115
        for _ in range(ranks)
    ]
    processes = [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                **places,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": str(threads),
            },
            stdout=out,
            stderr=err,
        )
        for rank, (out, err) in enumerate(said)
    ]
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(_LOOK)
    finally:
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        for process in processes:
            process.kill()  # nothing to one that has ended
            process.wait()
    texts = [(_read(out), _read(err)) for out, err in said]
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
    """Where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
