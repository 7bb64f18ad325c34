"""Explains why a collective failed, by a roll call that finds the ranks that do not answer.

A rank that is stuck or has ended cannot report this itself. But on the other ranks, a collective
fails with an error. Each of them then writes an answer to the launcher's store, and waits a few
seconds for the answers of the others. The error message names the ranks that have not answered.
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
# Seconds to wait for answers: after a timeout (True), and after a lost connection (False).
_ANSWER_WITHIN = {True: 5.0, False: 2.0}
_LOOK_AGAIN = 0.05  # seconds between two checks
# Seconds that the rank with the message gets to print it. The launcher ends this rank as soon as
# another one has ended.
_SPEAKER_NEEDS = 1.0


@dataclass
class Where:
    """What a rank is doing, for messages.

    Attributes:
        step: the number of the current step, from 1 on; 0 before the first step.
        doing: the part of the step, and the collective that it uses.
        remedy: what the user can do if ranks are lost.
    """

    step: int = 0
    doing: str = "start-up"
    remedy: str = "start it again"

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}" if self.step else self.doing


@dataclass(frozen=True)
class Meeting:
    """The attributes of `process.Ranks` that a roll call needs.

    Attributes:
        rank, world, timeout, attempt, where: as in `Ranks`.
    """

    rank: int
    world: int
    timeout: timedelta
    attempt: str
    where: Where = field(default_factory=Where)


@dataclass(frozen=True)
class _Answer:
    """The answer of a rank in a roll call.

    Attributes:
        where: what the rank was doing, as text.
        timed_out: whether its collective failed because of the timeout.
    """

    where: str
    timed_out: bool


def lost_ranks(error: BaseException, ranks: Meeting) -> LostRanksError | None:
    """Returns the error to raise if `error` comes from a collective; otherwise None.

    To write the message, it holds a roll call, which may take some seconds.
    """
    text = str(error).lower()
    of_a_collective = isinstance(error, dist.DistError) or any(
        name in text for name in _OF_A_COLLECTIVE
    )
    # TorchRec and DDP may wrap the error of a collective in an error of their own.
    if not of_a_collective and error.__cause__ is not None:
        return lost_ranks(error.__cause__, ranks)
    if ranks.world == 1 or not of_a_collective:
        return None

    timed_out = any(words in text for words in _TIMED_OUT)
    answers, missing = _call(_Answer(str(ranks.where), timed_out), ranks)

    # Only one rank prints the message. The others wait before they end, because the launcher ends
    # all ranks as soon as one has ended.
    speaks = ranks.rank == min(answers)
    if not speaks:
        time.sleep(_SPEAKER_NEEDS)
    return LostRanksError(_message(answers, missing, ranks), speaks=speaks)


def _call(own: _Answer, ranks: Meeting) -> tuple[dict[int, _Answer], list[int]]:
    """Holds a roll call.

    Args:
        own: the answer of this rank.

    Returns:
        The answers that were given, including this rank's own, and the ranks that did not answer.
    """
    within = _ANSWER_WITHIN[own.timed_out]
    answers = {ranks.rank: own}
    reached = threading.Event()

    def ask() -> None:
        # A new connection to the store is opened, because the process group's connection may be
        # waiting for an answer that never comes.
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

    # A thread asks, because a store that is stuck never answers.
    asking = threading.Thread(target=ask, name="roll call", daemon=True)
    asking.start()
    asking.join(within)

    # The thread may still add answers, so they are copied.
    answered = dict(answers)
    # If the store was not reached, it was probably rank 0's, so rank 0 has ended.
    if not reached.is_set():
        return answered, [0]
    return answered, sorted(set(range(ranks.world)) - set(answered))


def _message(answers: dict[int, _Answer], missing: list[int], ranks: Meeting) -> str:
    """Returns the message about the missing ranks.

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
        problem = f"the connection between ranks was lost, although all of them answered ({places})"
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
