"""What a launcher (torchrun, TorchX) tells a process in environment variables: which of how many ranks it is, and where
they meet. What is left of a launcher that is gone, or was set by hand and is nonsense, is a mistake that is said."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torchrec_priors.common.limits import shortened, whole_number
from torchrec_priors.errors import UserError

_OF_A_RANK = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
)  # any of them says: one of several
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MOST = 1 << 20  # ranks
_PORTS = 1 << 16


@dataclass(frozen=True)
class Launch:
    """This process among those that a launcher started.

    Attributes:
        rank, world: of how many.
        local_rank, local_world: on this machine; None where the launcher does not say.
        host, port: where the ranks meet.
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
    """What a launcher says; None where none started this process.

    Raises:
        UserError: some variables are there without the others, or cannot be.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    told = [name for name in _OF_A_RANK if name in given]
    if not told:
        return None
    missing = [name for name in _NEEDED if name not in given]
    if missing:
        raise UserError(
            f"{_are(told)} set, but not {', '.join(missing)}: start with torchrun or TorchX, which set all of "
            f"them; for one process, {_unset(told)}"
        )
    world = _number(given, "WORLD_SIZE", 1, _MOST)
    local_world = (
        _number(given, "LOCAL_WORLD_SIZE", 1, world + 1) if "LOCAL_WORLD_SIZE" in given else None
    )
    return Launch(
        rank=_number(given, "RANK", 0, world),
        world=world,
        local_rank=_number(given, "LOCAL_RANK", 0, local_world or world)
        if "LOCAL_RANK" in given
        else None,
        local_world=local_world,
        host=given["MASTER_ADDR"],
        port=_number(given, "MASTER_PORT", 1, _PORTS),
        agent=given.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def for_one_process() -> str:
    """How to go on without a launcher whose variables are there."""
    return _unset([name for name in _OF_A_RANK if name in os.environ])


def _are(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _unset(names: list[str]) -> str:
    return f"`unset {' '.join(names)}`"


def _number(given: Mapping[str, str], name: str, least: int, end: int) -> int:
    """A variable in [least, end)."""
    text = given[name]
    number = whole_number(text)
    if number is None or not least <= number < end:
        told = [each for each in _OF_A_RANK if each in given]
        raise UserError(
            f"{name} = '{shortened(text)}' must be a whole number from {least} to {end - 1}: start with torchrun or "
            f"TorchX, which set it; for one process, {_unset(told)}"
        )
    return number
