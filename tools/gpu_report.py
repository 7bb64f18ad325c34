"""Measures this package on a GPU, in at most six minutes, and writes a page.

    python tools/gpu_report.py [--out gpu-report] [--seconds 340] [--sections attention,merrec]

torch, NumPy and Triton are needed, and nothing else: no TorchRec, no installation of this package.
Each section runs in a process of its own, with its part of the time, and writes row by row. So a
section that fails or hangs loses neither the other sections nor its own rows. The sections that
compare kernels measure no times, and run together. `report.json` and
`report.md` are written after each section. docs/speed.md says what the sections show.

Without a GPU, everything runs at tiny sizes in Triton's interpreter, so that it works on the day a
GPU is there. The exit code is 1 if a section did not end, or if a kernel differs from its
reference.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from without_torchrec import ROOT, stand_in

# Sections that run together, and their part of the time.
GROUPS: list[tuple[tuple[str, ...], float]] = [
    (("machine",), 1.0),
    (("parity_fp32", "parity_bf16", "parity_fp16"), 3.0),
    (("attention",), 1.5),
    (("merrec",), 1.5),
    (("pixel8m",), 1.5),
    (("ebnerd",), 1.5),
    (("search",), 1.5),
]
NAMES = [name for names, _ in GROUPS for name in names]
# A section may use this multiple of its part of the time that is left, because most need less.
_GENEROUS = 1.5
_SHOWN_OF_ERROR = 4_000  # characters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), help="folder of the report")
    parser.add_argument("--seconds", type=float, default=340.0, help="time for all sections")
    parser.add_argument("--sections", default=",".join(NAMES), help="names, with commas")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sections = given.sections.split(",")
    unknown = [name for name in sections if name not in NAMES]
    if unknown:
        parser.error(f"--sections: there is no section '{unknown[0]}': use {', '.join(NAMES)}")

    stand_in()
    if given.rows:
        sys.argv = [sys.argv[0], sections[0], str(given.rows)]
        importlib.import_module("torchrec_priors.bench.gpu.sections").main()
        return 0
    return _measure(sections, given.out, given.seconds)


def _measure(sections: list[str], out: Path, seconds: float) -> int:
    """Runs the sections, and writes the report after each group of them."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    page = importlib.import_module("torchrec_priors.bench.gpu.page")
    report: dict[str, Any] = {"has_gpu": _has_gpu(), "commit": _commit(), "sections": {}}
    chosen = [([name for name in names if name in sections], part) for names, part in GROUPS]
    groups = [(names, part) for names, part in chosen if names]

    for number, (names, part) in enumerate(groups):
        left = max(0.0, seconds - (time.monotonic() - started))
        share = part / sum(other for _, other in groups[number:])
        limit = left * min(1.0, _GENEROUS * share)
        print(f"{', '.join(names)}: at most {limit:.0f} s", flush=True)
        runs = [_Run(name, out, report["has_gpu"]) for name in names]
        deadline = time.monotonic() + limit
        for run in runs:
            report["sections"][run.name] = run.finish(deadline, limit)

        report["seconds"] = time.monotonic() - started
        (out / "report.json").write_text(json.dumps(report, indent=1))
        (out / "report.md").write_text(page.page_of(report))

    print((out / "report.md").read_text())
    wrong = page.failures(report)
    if wrong:
        print(f"not right: {', '.join(wrong)}")
    print(f"written to {out}")
    return 1 if wrong else 0


class _Run:
    """A section in a process of its own."""

    def __init__(self, name: str, out: Path, has_gpu: bool) -> None:
        self.name = name
        self._rows = out / f"{name}.jsonl"
        self._rows.unlink(missing_ok=True)
        self._log = out / f"{name}.log"
        self._started = time.monotonic()

        environment = dict(os.environ)
        if not has_gpu:
            environment["TRITON_INTERPRET"] = "1"
        command = [sys.executable, __file__, "--sections", name, "--rows", str(self._rows)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self, deadline: float, limit: float) -> dict[str, Any]:
        """Waits for the end, or ends the process; returns its rows and how it ended."""
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
            result = "ok" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            result = f"stopped after {limit:.0f} s"
            os.killpg(self._process.pid, signal.SIGKILL)
            # A process that waits for a GPU may not end, even if it is killed.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)

        seconds = time.monotonic() - self._started
        lines = self._rows.read_text().splitlines() if self._rows.exists() else []
        return {
            "result": result,
            "seconds": seconds,
            "rows": [json.loads(line) for line in lines if line.endswith("}}")],
            "error": "" if result == "ok" else self._log.read_text()[-_SHOWN_OF_ERROR:],
        }


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _commit() -> str:
    """Returns the commit of the checkout; "unknown" where there is no git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
