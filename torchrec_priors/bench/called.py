"""Times a run that this process has loaded: one call after another, and the bare arithmetic.

The two take turns, so they find the machine in the same state. `bench --shape serve` compares a
service with both. The module also writes the same requests as bodies for the service, one in each
line of a file.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from torchrec_priors.bench.http_load import percentile
from torchrec_priors.bench.requests import bare_arithmetic
from torchrec_priors.bench.timed import peak_bytes, print_result
from torchrec_priors.serving.run import Answer, Request, UserContext, load_run

_K = 10
_MOST_USERS = 64


@dataclass(frozen=True)
class Spread:
    """The seconds of something that was done many times.

    Attributes:
        mean: the mean.
        p50, p95, p99: percentiles.
    """

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        """Returns the mean and the percentiles of some seconds."""
        ascending = sorted(seconds)
        percentiles = [percentile(ascending, share) for share in (0.5, 0.95, 0.99)]
        return cls(statistics.fmean(seconds), *percentiles)


@dataclass(frozen=True)
class Called:
    """What calls in one process take, on one thread.

    Attributes:
        items: the number of items of the catalogue.
        heads: the number of heads.
        users: the number of users whose requests are sent.
        bare: the seconds of the bare arithmetic of a request.
        call: the seconds of a call.
        peak_bytes: the peak memory of the process.
    """

    items: int
    heads: int
    users: int
    bare: Spread
    call: Spread
    peak_bytes: int

    @classmethod
    def read(cls, line: str) -> "Called":
        """Reads what the process of this module has printed."""
        values = json.loads(line)
        for name in ("bare", "call"):
            values[name] = Spread(**values[name])
        return cls(**values)


def time_calls(folder: Path, bodies: Path, repeats: int) -> Called:
    """Times the requests of some users of a run, and writes them as bodies.

    Args:
        folder: the folder of the run.
        bodies: the file to write.
        repeats: how often each request is called, after a warm-up.
    """
    with load_run(folder) as run:
        run.warm_up()
        users = run.data.user_texts().to_pylist()[:_MOST_USERS]
        lines = [json.dumps({"user": user, "k": _K}) for user in users]
        bodies.write_text("\n".join(lines) + "\n", encoding="utf8")

        # As over HTTP: reasons and the scores of all heads come only if they are asked for.
        requests = [Request(UserContext(user=user), _K, explain=False) for user in users]
        for request in requests:
            run.answer([request])
        peak = peak_bytes()

        of_bare: list[float] = []
        of_calls: list[float] = []
        bare = [bare_arithmetic(run, [request]) for request in requests]
        for number in range(repeats + 1):
            for request, arithmetic in zip(requests, bare, strict=True):
                started = time.perf_counter()
                arithmetic()
                between = time.perf_counter()
                (outcome,) = run.answer([request])
                ended = time.perf_counter()
                assert isinstance(outcome, Answer)
                # The first time is a warm-up.
                if number:
                    of_bare.append(between - started)
                    of_calls.append(ended - between)
        return Called(
            items=run.data.items,
            heads=len(run.heads),
            users=len(users),
            bare=Spread.of(of_bare),
            call=Spread.of(of_calls),
            peak_bytes=peak,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("bodies", type=Path)
    parser.add_argument("repeats", type=int)
    given = parser.parse_args()

    torch.set_num_threads(1)
    print_result(time_calls(given.run, given.bodies, given.repeats))


if __name__ == "__main__":
    main()
