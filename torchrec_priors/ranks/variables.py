"""A launcher's environment variables (torchrun, TorchX): which rank a process is, of how many, and
where they meet.

Variables that are left from a launcher that has ended, or were set by hand to invalid values, are
mistakes of the user.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torchrec_priors.common.limits import shortened, whole_number
from torchrec_priors.errors import UserError

# Any of these means that the process is one of several.
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MOST = 1 << 20  # ranks
_PORTS = 1 << 16


@dataclass(frozen=True)
class Launch:
    """This process among those that a launcher started.

    Attributes:
        rank: number of this process.
        world: number of all processes.
        local_rank: number of this process on this machine; None if the launcher does not say.
        local_world: number of processes on this machine; None if the launcher does not say.
        host: name or address of the machine where the ranks meet.
        port: port where the ranks meet.
        agent: whether torchrun itself listens there, not rank 0.
    """

    rank: int
    world: int
    local_rank: int | None
    local_world: int | None
    host: str
    port: int
    agent: bool


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What a launcher says; None if no launcher started this process.

    Raises:
        UserError: some variables are set without the others, or have invalid values.
    """
    # A variable that is set to nothing counts as not set.
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
    """How to continue as one process, without the launcher whose variables are set."""
    return _unset([name for name in _OF_A_RANK if name in os.environ])


def _are(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _unset(names: list[str]) -> str:
    return f"`unset {' '.join(names)}`"


def _number(given: Mapping[str, str], name: str, least: int, end: int) -> int:
    """The value of a variable, in [least, end)."""
    text = given[name]
    number = whole_number(text)
    if number is None or not least <= number < end:
        set_names = [variable for variable in _OF_A_RANK if variable in given]
        raise UserError(
            f"{name} = '{shortened(text)}' must be a whole number from {least} to {end - 1}: start "
            f"with torchrun or TorchX, which set it; for one process, {_unset(set_names)}"
        )
    return number
