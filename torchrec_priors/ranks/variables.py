"""Reads the environment variables by which a launcher (torchrun, TorchX) tells a process its rank.

They also contain the number of all ranks, and the address at which the ranks meet. If they are
incomplete or invalid, either the user has set them, or they are left over from an earlier launcher.
The error message then explains what to do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torchrec_priors.common.limits import shortened, whole_number
from torchrec_priors.errors import UserError

# Any of these means that the process is one of several.
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MOST = 1 << 20  # the largest number of ranks, plus 1
_PORTS = 1 << 16  # the largest port number, plus 1


@dataclass(frozen=True)
class Launch:
    """The values that a launcher has given this process.

    Attributes:
        rank: the number of this process.
        world: the number of all processes.
        local_rank: the number of this process on this machine; None if the launcher did not set it.
        local_world: the number of processes on this machine; None if the launcher did not set it.
        host: the name or address of the machine at which the ranks meet.
        port: the port at which the ranks meet.
        agent: whether torchrun's agent has a store at this port. Otherwise rank 0 opens one there.
    """

    rank: int
    world: int
    local_rank: int | None
    local_world: int | None
    host: str
    port: int
    agent: bool


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Reads the variables of a launcher; returns None if no launcher has started this process.

    Raises:
        UserError: only some of the variables are set, or some have invalid values.
    """
    # A variable with an empty value counts as not set.
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    set_names = [name for name in _OF_A_RANK if name in given]
    if not set_names:
        return None

    missing = [name for name in _NEEDED if name not in given]
    if missing:
        raise UserError(
            f"{_are(set_names)} set, but not {', '.join(missing)}: start with torchrun or TorchX, "
            f"which set all of them; for one process, {_unset(set_names)}"
        )

    world = _number(given, "WORLD_SIZE", 1, _MOST)
    local_world = None
    if "LOCAL_WORLD_SIZE" in given:
        local_world = _number(given, "LOCAL_WORLD_SIZE", 1, world + 1)
    rank = _number(given, "RANK", 0, world)
    local_rank = None
    if "LOCAL_RANK" in given:
        local_rank = _number(given, "LOCAL_RANK", 0, local_world or world)

    return Launch(
        rank=rank,
        world=world,
        local_rank=local_rank,
        local_world=local_world,
        host=given["MASTER_ADDR"],
        port=_number(given, "MASTER_PORT", 1, _PORTS),
        agent=given.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def for_one_process() -> str:
    """Returns the shell command that removes the launcher's variables, to run as one process."""
    return _unset([name for name in _OF_A_RANK if name in os.environ])


def _are(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _unset(names: list[str]) -> str:
    return f"`unset {' '.join(names)}`"


def _number(given: Mapping[str, str], name: str, least: int, end: int) -> int:
    """Returns the value of a variable, which must be in [least, end)."""
    text = given[name]
    number = whole_number(text)
    if number is None or not least <= number < end:
        set_names = [variable for variable in _OF_A_RANK if variable in given]
        raise UserError(
            f"{name} = '{shortened(text)}' must be a whole number from {least} to {end - 1}: start "
            f"with torchrun or TorchX, which set it; for one process, {_unset(set_names)}"
        )
    return number
