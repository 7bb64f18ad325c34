"""Explains an error of a collective: which ranks are still there, which are not, and where they
waited.

A rank that is stuck or gone cannot say so. The others, whose collectives end with an error, answer
in the launcher's store; ranks that have not done so after a few seconds are named.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

from torchrec_priors.errors import LostRanksError
from torchrec_priors.ranks.variables import read_launch

_TIMED_OUT = ("timed out", "timeout")
_OF_A_COLLECTIVE = ("gloo/", "gloo ", "nccl")
_ANSWER_WITHIN = {True: 5.0, False: 2.0}  # seconds after a timeout, and after a lost connection
_LOOK_AGAIN = 0.05  # seconds between looks
_SPEAKER_NEEDS = 1.0  # seconds until a launcher that sees another rank end ends it, too


@dataclass
class Where:
    """What a rank is doing.

    Attributes:
        step: number of the step it is in, from 1 on; 0 before the first.
        doing: part of the step, with its collective.
        remedy: what to do when others are lost.
    """

    step: int = 0
    doing: str = "start-up"
    remedy: str = "start it again"

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}" if self.step else self.doing


@dataclass(frozen=True)
class Meeting:
    """What is known of the ranks: `process.Ranks` without its device and groups.

    Attributes:
        rank: as there.
        world: as there.
        timeout: as there.
        attempt: as there.
        where: as there.
    """

    rank: int
    world: int
    timeout: timedelta
    attempt: str
    where: Where = field(default_factory=Where)


@dataclass(frozen=True)
class _Answer:
    """A rank's answer: where it is, and whether its error was a timeout."""

    where: str
    timed_out: bool


def lost_ranks(error: BaseException, ranks: Meeting) -> LostRanksError | None:
    """What to raise instead of an error; None if it is not of a collective. May take seconds."""
    text = str(error).lower()
    of_a_collective = isinstance(error, dist.DistError) or any(
        name in text for name in _OF_A_COLLECTIVE
    )
    # TorchRec and DDP may wrap the error of a collective in one of their own.
    if not of_a_collective and error.__cause__ is not None:
        return lost_ranks(error.__cause__, ranks)
    if ranks.world == 1 or not of_a_collective:
        return None

    timed_out = any(words in text for words in _TIMED_OUT)
    answers, missing = _call(_Answer(str(ranks.where), timed_out), ranks)

    # One rank reports; the others give it time before their end makes the launcher end it.
    speaks = ranks.rank == min(answers)
    if not speaks:
        time.sleep(_SPEAKER_NEEDS)
    return LostRanksError(_message(answers, missing, ranks), speaks=speaks)


def _call(own: _Answer, ranks: Meeting) -> tuple[dict[int, _Answer], list[int]]:
    """The answers of the ranks that are there, this one included, and the ranks that are not."""
    within = _ANSWER_WITHIN[own.timed_out]
    answers = {ranks.rank: own}
    reached = threading.Event()

    def ask() -> None:
        # A connection of its own: that of the process group may wait for an answer that never
        # comes.
        launch = read_launch()
        if launch is None:
            return

        store = dist.TCPStore(launch.host, launch.port, is_master=False)
        key = f"torchrec_priors/roll_call/{ranks.attempt}"
        store.set(f"{key}/{ranks.rank}", json.dumps(vars(own)))
        reached.set()

        while len(answers) < ranks.world:
            for rank in set(range(ranks.world)) - set(answers):
                if store.check([f"{key}/{rank}"]):
                    answers[rank] = _Answer(**json.loads(store.get(f"{key}/{rank}")))
            time.sleep(_LOOK_AGAIN)

    # In a thread, as a store that is stuck never answers.
    asking = threading.Thread(target=ask, name="roll call", daemon=True)
    asking.start()
    asking.join(within)

    # A copy, as the thread may still add answers.
    answered = dict(answers)
    # If the launcher does not keep the store, rank 0 does.
    if not reached.is_set():
        return answered, [0]
    return answered, sorted(set(range(ranks.world)) - set(answered))


def _message(answers: dict[int, _Answer], missing: list[int], ranks: Meeting) -> str:
    """One line about the missing ranks.

    >>> three = Meeting(0, 3, timedelta(seconds=60), "", Where(remedy="start it again"))
    >>> waits = _Answer("step 7, evaluation", True)
    >>> _message({0: waits, 2: waits}, [1], three).partition(" in ")[0]
    'rank 1 did not answer within 60 s (training.timeout_seconds)'
    >>> _message({0: _Answer("step 7, lookup (all-to-all)", False)}, [1, 2], three)
    'ranks 1, 2 were lost in step 7, lookup (all-to-all): start it again'
    """
    own = answers[ranks.rank].where
    numbers = ", ".join(map(str, missing))

    if not missing:
        places = "; ".join(
            f"rank {rank} in {answer.where}" for rank, answer in sorted(answers.items())
        )
        problem = f"the connection between ranks was lost, all of which are there ({places})"
    elif any(answer.timed_out for answer in answers.values()):
        seconds = ranks.timeout.total_seconds()
        limit = f"{seconds:g} s (training.timeout_seconds)"
        plural = "s" if len(missing) > 1 else ""
        problem = f"rank{plural} {numbers} did not answer within {limit} in {own}"
    elif len(missing) > 1:
        problem = f"ranks {numbers} were lost in {own}"
    else:
        problem = f"rank {numbers} was lost in {own}"

    return f"{problem}: {ranks.where.remedy}"
