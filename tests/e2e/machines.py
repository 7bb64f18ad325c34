"""Machines for tests of several nodes: Linux namespaces on this one, joined by a cable.

Each has a network, a host name, an /etc/hosts and processes of its own, and shares the files; nothing of it
outlives its first process.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TOOLS = ("unshare", "nsenter", "ip")
_NAMESPACES = ("--net", "--uts", "--mount", "--pid")


@dataclass
class Machine:
    """
    Attributes:
        name: its host name, which the others resolve to `address`.
        interface: its end of the cable.
        first: process id, seen from here, of the process that everything else there dies with.
    """

    name: str
    address: str
    interface: str
    first: int

    def start(
        self, command: Sequence[str], env: dict[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Starts a command there, its output added to a file."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [*self._enter(*_NAMESPACES), *command], env=env, stdout=output, stderr=output
            )

    def processes(self, *, ranks_alone: bool = False) -> list[int]:
        """Process ids, seen from here, of what was started there; ranks are what a launcher has started."""
        there = os.readlink(f"/proc/{self.first}/ns/pid")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_there = (
                    os.readlink(process / "ns/pid") == there and int(process.name) != self.first
                )
                if is_there and (
                    not ranks_alone or b"\0LOCAL_RANK=" in (process / "environ").read_bytes()
                ):
                    found.append(int(process.name))
            except OSError:  # it has ended in the meantime
                continue
        return found

    def _enter(self, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self.first), *namespaces]


def why_not() -> str | None:
    """Why there can be no such machines here."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found: install util-linux and iproute2"
    probe = [
        "unshare",
        *_NAMESPACES,
        "--fork",
        "ip",
        "link",
        "add",
        "probe",
        "type",
        "veth",
        "peer",
        "name",
        "eborp",
    ]
    tried = subprocess.run(probe, capture_output=True, text=True)
    return (
        f"no network namespaces without privileges: {tried.stderr.strip()}"
        if tried.returncode
        else None
    )


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """node0 and node1, connected to each other and to nothing else; turned off when the block ends.

    Args:
        folder: for their /etc/hosts.
    """
    addresses = {"node0": "10.99.0.1", "node1": "10.99.0.2"}
    hosts = folder / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost\n"
        + "".join(f"{address} {name}\n" for name, address in addresses.items())
    )
    held, machines = [], []
    try:
        for number, (name, address) in enumerate(addresses.items()):
            ready = f"hostname {name}; mount --bind '{hosts}' /etc/hosts; ip link set lo up; echo ready; exec sleep inf"
            holder = subprocess.Popen(
                [
                    "unshare",
                    *_NAMESPACES,
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "sh",
                    "-ec",
                    ready,
                ],
                stdout=subprocess.PIPE,
            )
            held.append(holder)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            first = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
            machines.append(Machine(name, address, f"cable{number}", first))
        one, other = machines
        ends = f"{one.interface} netns {one.first} type veth peer name {other.interface} netns {other.first}"
        subprocess.run(["ip", "link", "add", *ends.split()], check=True)
        for machine in machines:
            for change in (
                f"addr add {machine.address}/24 dev {machine.interface}",
                f"link set {machine.interface} up",
            ):
                subprocess.run([*machine._enter("--net"), "ip", *change.split()], check=True)
        yield one, other
    finally:
        for holder in held:
            holder.kill()
            holder.communicate()
