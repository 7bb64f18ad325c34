"""Times one variant in a separate process, so the peak memory of other variants is not counted.

It prints a line of JSON (`Timed`).
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchrec_priors.bench import ablations, retrieval, training
from torchrec_priors.bench.shapes import SHAPES
from torchrec_priors.bench.timed import Timed, print_result
from torchrec_priors.common.library_warnings import silence_library_warnings

Time = Callable[..., Timed]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shape")
    parser.add_argument("how", choices=["ours", "reference"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument(
        "--sequences", type=int, default=0, help="of all ranks; 0 for those of the shape"
    )
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--changes", type=json.loads, default={})
    parser.add_argument("--profile", type=Path)
    given = parser.parse_args()

    silence_library_warnings()
    torch.set_num_threads(given.threads)
    shape = SHAPES[given.shape]
    if given.sequences:
        shape = replace(shape, sequences=given.sequences)
    kind: Any = training
    if shape.top:
        kind = retrieval
    time: Time = kind.time_reference
    if given.how == "ours":
        time = kind.time_ours

    with ExitStack() as stack:
        for name in given.without:
            stack.enter_context(ablations.without(name))
        if given.profile is not None:
            profiler = stack.enter_context(
                torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            )
        timed = time(shape, given.data, given.repeats, given.changes)

    if given.profile is not None:
        profiler.export_chrome_trace(str(given.profile))
    print_result(timed)


if __name__ == "__main__":
    main()
