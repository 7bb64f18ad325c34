"""Times requests for recommendations: one at a time and in batches, and the bare arithmetic.

The bare arithmetic of a request is the user's state, one product of all heads with all items, and
the best items. It has no lookup of ids, no item sets, no lists and no names.

A run is trained for one step, as the values of its weights do not matter here.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.shapes import SHAPES, Shape
from torchrec_priors.bench.timed import Timed, in_a_process, peak_bytes, print_result, repeat
from torchrec_priors.bench.workload import make_workload
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.queries import batch_of
from torchrec_priors.serving.run import Answer, LoadedRun, Request, UserContext, load_run
from torchrec_priors.training import loop
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.same_run import check_same_run

Report = Callable[[str], None]

_K = 10
_BATCH = 64  # requests of a batch
# Of a catalogue like that of MovieLens 100K, and of MerRec.
_SMALL = Shape(
    "requests",
    sequences=128,
    context=200,
    items=1_682,
    horizon=4,
    tree=("temporal:4",),
    groups=1,
    labels=1.7,
    negatives=2_048,
    dim=64,
    layers=2,
    heads=2,
)


@dataclass(frozen=True)
class Case:
    """A run whose requests are measured.

    Attributes:
        shape: the sizes of the data set and of the model.
        settings: settings of the run in addition to those of the shape, by section.
        requests: the number of requests.
    """

    shape: Shape
    settings: dict[str, dict[str, Any]]
    requests: int


_CALIBRATED: dict[str, dict[str, Any]] = {
    "priors": {"composition": "additive"},
    "loss": {"gate": 1.0},
    "evaluation": {"calibrated": True, "fusion": "hierarchical"},
}
CASES = {
    "4 heads": Case(_SMALL, {}, 128),
    "45 heads": Case(replace(_SMALL, tree=("temporal:4", "category"), groups=41), _CALIBRATED, 128),
    "64 heads": Case(replace(_SMALL, tree=("temporal:4", "category"), groups=60), _CALIBRATED, 128),
    "merrec": Case(replace(SHAPES["merrec"], sequences=16), {"evaluation": {"tiles": "int8"}}, 16),
}
VARIANTS = ("bare arithmetic", "one at a time, by operations", "one at a time", "batches")


def request_rows(repeats: int, threads: int, report: Report) -> list[Row]:
    """Measures each variant of each case in a separate process.

    Of a row, `tokens` are requests, and ratios are relative to one request at a time by operations
    of PyTorch, without the kernel. Only batches use more than one thread.
    """
    rows: list[Row] = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            report(f"requests: {case}: run")
            make_run(CASES[case], Path(folder))
            of_case = {}
            for variant in VARIANTS:
                report(f"requests: {case}: {variant}")
                arguments = [case, variant, folder, str(repeats)]
                used = threads if variant == "batches" else 1
                timed = in_a_process(f"requests, {variant}", __name__, arguments, used)
                of_case[variant] = Row.of("requests", f"{case}: {variant}", timed)
        reference = of_case["one at a time, by operations"]
        rows += [row if row is reference else row.beside(reference) for row in of_case.values()]
    return rows


def make_run(case: Case, folder: Path) -> None:
    """Writes the data set and a run of a single step: `folder/data` and `folder/run`."""
    make_workload(case.shape, folder / "data")
    table = case.shape.config({"training.steps": 1})
    for section, settings in case.settings.items():
        table[section] = {**table.get(section, {}), **settings}
    config = parse(table)
    data = PreparedData(folder / "data")
    run = RunFolder(folder / "run")
    check_same_run(run, config, data)
    with join() as ranks:
        loop.train(config, data, run, ranks, None)


def time_requests(case: Case, variant: str, folder: Path, repeats: int) -> Timed:
    """Times all requests of a case, `repeats` times after a warm-up."""
    before = peak_bytes()
    with ExitStack() as opened:
        if variant == "one at a time, by operations":
            without_kernel = patch("torchrec_priors.retrieval.resident.load_native", lambda _: None)
            opened.enter_context(without_kernel)
        run = opened.enter_context(load_run(folder / "run"))
        run.warm_up()
        users = run.data.user_texts().to_pylist()[: case.requests]
        # As over HTTP: reasons and the scores of all heads come only if they are asked for.
        requests = [Request(UserContext(user=user), _K, explain=False) for user in users]
        answer = _ways(run, requests)[variant]
        seconds, results = repeat(lambda _: answer(), repeats)
    peak = peak_bytes()
    return Timed(seconds, results, peak, len(requests), extra_bytes=peak - before)


def _ways(run: LoadedRun, requests: list[Request]) -> dict[str, Callable[[], float]]:
    """Returns the variants: each answers all requests and returns a checksum."""

    def one_at_a_time() -> float:
        return sum(_checksum(run.answer([request])) for request in requests)

    def in_batches() -> float:
        batches = [requests[first : first + _BATCH] for first in range(0, len(requests), _BATCH)]
        return sum(_checksum(run.answer(batch)) for batch in batches)

    return {
        "bare arithmetic": bare_arithmetic(run, requests),
        "one at a time, by operations": one_at_a_time,
        "one at a time": one_at_a_time,
        "batches": in_batches,
    }


def bare_arithmetic(run: LoadedRun, requests: list[Request]) -> Callable[[], float]:
    """Returns the bare arithmetic of requests, which returns a checksum.

    The inputs of the encoder are looked up before.
    """
    histories = [run.path.known_user(request.context, strict=True).history for request in requests]
    batches = [batch_of(run.finder, [one], columns=True) for one in histories]
    inputs = [run.finder.histories(batch) for batch in batches]
    items_Vd = run.finder.score.items(run.finder.index.shard.rows)
    # The values of the queries do not matter, but their number does.
    query_Kd = torch.randn(len(run.model.tree.item_set_K), items_Vd.shape[1])

    @torch.inference_mode()
    def bare() -> float:
        total = 0.0
        for history in inputs:
            state_d = run.model.encoder(history)[-1]
            score_KV = (query_Kd * state_d) @ items_Vd.T
            total += float(score_KV.amax(0).topk(_K).values.sum())
        return total

    return bare


def _checksum(outcomes: list[Answer | UserError]) -> float:
    """Returns the sum of all scores."""
    total = 0.0
    for outcome in outcomes:
        assert isinstance(outcome, Answer)
        total += sum(item.score for item in outcome)
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repeats", type=int)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    print_result(time_requests(CASES[given.case], given.variant, given.folder, given.repeats))


if __name__ == "__main__":
    main()
