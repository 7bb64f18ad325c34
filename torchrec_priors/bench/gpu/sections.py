"""The sections of the report: each runs in a process of its own."""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from torchrec_priors.bench.gpu.attention import time_attention
from torchrec_priors.bench.gpu.device import TYPES, the_device
from torchrec_priors.bench.gpu.machine import describe_machine
from torchrec_priors.bench.gpu.parity import compare
from torchrec_priors.bench.gpu.report import Report
from torchrec_priors.bench.gpu.search import measure_search
from torchrec_priors.bench.gpu.step import measure_steps

_Section = Callable[[torch.device, Report], None]


SECTIONS: dict[str, _Section] = {
    "machine": describe_machine,
    **{f"parity_{name}": partial(compare, name) for name in TYPES},
    "attention": time_attention,
    **{name: partial(measure_steps, name) for name in ("merrec", "pixel8m", "ebnerd")},
    "search": measure_search,
}


def main() -> None:
    """Runs a section, and appends each of its rows to a file as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("file", type=Path)
    given = parser.parse_args(sys.argv[1:])

    with given.file.open("a") as file:

        def report(table: str, row: dict[str, object]) -> None:
            file.write(json.dumps({"table": table, "row": row}) + "\n")
            file.flush()

        SECTIONS[given.section](the_device(), report)


if __name__ == "__main__":
    main()
