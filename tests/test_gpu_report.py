"""The report of a GPU: every section ends on a CPU, with nothing but torch, NumPy and Triton."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "gpu_report.py"

# What a whole step and a search need, from the package's own modules.
NEEDED = ("model", "training.step", "data.batch", "sampling.group_sampler", "retrieval.tile_search")
# These need no placeholders at all.
PLAIN = ("ops.hstu_attention", "ops.in_group_softmax", "ops.residual_adapters", "ops.best_tiles")

KERNELS = {
    "norm_forward", "norm_backward", "drop", "adapters_forward", "adapters_backward",
    "in_group_softmax", "attention_forward", "attention_backward", "tile_maxima", "tile_scores",
}  # fmt: skip


def _python(code: str) -> str:
    """Runs code in a process without this package's `__init__`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tools",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_step_and_a_search_import_without_torchrec_and_the_other_libraries():
    code = f"""
import importlib, sys
from without_torchrec import REPLACED, stand_in
stand_in()
for name in {NEEDED + PLAIN}:
    importlib.import_module("torchrec_priors." + name)
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}}
print(sorted(loaded & REPLACED))
"""
    assert _python(code).strip() == "[]"


@pytest.mark.slow
def test_kernels_and_their_references_need_torch_alone():
    code = f"""
import importlib, sys
import without_torchrec
from types import ModuleType
package = ModuleType("torchrec_priors")
package.__path__ = [str(without_torchrec.ROOT / "torchrec_priors")]
sys.modules["torchrec_priors"] = package
for name in without_torchrec.REPLACED:
    sys.modules[name] = None
for name in {PLAIN}:
    importlib.import_module("torchrec_priors." + name)
"""
    _python(code)


def _run(folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    command = [sys.executable, str(TOOL), "--out", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    report = folder / "report.json"
    return done, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.timeout(1800)
def test_every_section_ends_and_every_kernel_is_right(tmp_path):
    pytest.importorskip(
        "triton", reason="triton is not installed: pip install 'torchrec-priors[triton]'"
    )
    done, report = _run(tmp_path, "--seconds", "1700")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {section["result"] for section in report["sections"].values()} == {"ok"}

    def tables(section):
        return {entry["table"] for entry in report["sections"][section]["rows"]}

    assert tables("machine") == {"versions", "device", "rates"}
    for shape in ("merrec", "pixel8m", "ebnerd"):
        assert {"check", "steps"} <= tables(shape)
    assert tables("search") == {"check", "search", "tiles"}
    for name in ("parity_fp32", "parity_bf16", "parity_fp16"):
        kernels = [entry["row"]["kernel"] for entry in report["sections"][name]["rows"]]
        assert {kernel.split(",")[0] for kernel in kernels} == KERNELS, name
    assert all("ok" in entry["row"] for entry in report["sections"]["parity_fp32"]["rows"])
    page = (tmp_path / "report.md").read_text()
    assert all(f"## {section}" in page for section in report["sections"])


@pytest.mark.slow
def test_a_section_without_time_is_stopped_and_the_report_is_written(tmp_path):
    done, report = _run(tmp_path, "--seconds", "0.1", "--sections", "machine,search")
    assert done.returncode == 1
    assert [section["result"] for section in report["sections"].values()] == [
        "stopped after 0 s"
    ] * 2
    assert "not right: machine, search" in done.stdout


@pytest.mark.slow
def test_an_unknown_section_is_a_mistake(tmp_path):
    done, _ = _run(tmp_path, "--sections", "merec")
    assert done.returncode == 2
    assert "there is no section 'merec'" in done.stderr
