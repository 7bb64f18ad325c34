"""Times a run that this process has loaded: one call after another, and the bare arithmetic.

`bench --shape serve` compares a service with both. The module also writes the same requests as
bodies for the service, one in each line of a file.
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
from torchrec_priors.bench.timed import peak_bytes, print_result, repeat
from torchrec_priors.serving.run import Answer, Request, UserContext, load_run

_K = 10
_MOST_USERS = 64


@dataclass(frozen=True)
class Called:
    """What calls in one process take, on one thread.

    Attributes:
        items: the number of items of the catalogue.
        heads: the number of heads.
        users: the number of users whose requests are sent.
        bare_s: the seconds of the bare arithmetic of a request.
        call_s: the mean seconds of a call.
        p50, p95, p99: the seconds of a call, as percentiles.
        peak_bytes: the peak memory of the process.
    """

    items: int
    heads: int
    users: int
    bare_s: float
    call_s: float
    p50: float
    p95: float
    p99: float
    peak_bytes: int


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

        requests = [Request(UserContext(user=user), _K) for user in users]
        seconds: list[float] = []
        for request in [*requests, *requests * repeats]:
            started = time.perf_counter()
            (outcome,) = run.answer([request])
            seconds.append(time.perf_counter() - started)
            assert isinstance(outcome, Answer)
        measured = sorted(seconds[len(requests) :])
        peak = peak_bytes()

        bare = bare_arithmetic(run, requests)
        bare_seconds, _ = repeat(lambda _: bare(), repeats)
        return Called(
            items=run.data.items,
            heads=len(run.heads),
            users=len(users),
            bare_s=statistics.median(bare_seconds) / len(requests),
            call_s=sum(measured) / len(measured),
            p50=percentile(measured, 0.5),
            p95=percentile(measured, 0.95),
            p99=percentile(measured, 0.99),
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
