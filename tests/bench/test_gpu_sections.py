"""The parts of the GPU report that read what a GPU did: traces, warnings, rows, and the page."""

import warnings

import pytest
import torch

from torchrec_priors.bench.gpu import page
from torchrec_priors.bench.gpu.device import relative_error
from torchrec_priors.bench.gpu.plain_table import PlainIds, PlainTable
from torchrec_priors.bench.gpu.trace import Busy, traced
from torchrec_priors.bench.gpu.waits import count_waits

CPU = torch.device("cpu")


def _event(kind, name, start, length):
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": length}


def test_a_trace_says_how_long_the_device_waited():
    busy = Busy.of([
        _event("kernel", "second", 150.0, 50.0),
        _event("kernel", "first", 100.0, 20.0),
        _event("gpu_memcpy", "copy", 110.0, 20.0),  # beside the first kernel
        _event("kernel", "second", 290.0, 10.0),
        _event("cpu_op", "aten::mm", 0.0, 1000.0),
        {"ph": "i", "name": "a mark without a length", "cat": "kernel", "ts": 0.0},
    ])  # fmt: skip
    assert (busy.kernels, busy.copies) == (3, 1)
    assert busy.span == pytest.approx(200e-6)
    assert busy.busy == pytest.approx(90e-6)
    assert busy.idle_share == pytest.approx(0.55)
    assert busy.calls_of == {"first": 1, "second": 2}
    assert busy.seconds_of["second"] == pytest.approx(60e-6)


def test_a_trace_without_a_gpu_has_no_kernels():
    busy = traced(lambda: torch.ones(3) + 1, CPU, 2)
    assert (busy.kernels, busy.copies, busy.idle_share) == (0, 0, 0.0)


def test_only_warnings_about_waits_count():
    def run():
        warnings.warn(
            "called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1
        )
        warnings.warn(
            "called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1
        )
        warnings.warn("something else", stacklevel=1)

    assert sum(count_waits(run, CPU).values()) == 2


def test_errors_are_relative_and_wrong_shapes_infinities_and_nan_are_never_right():
    x = torch.tensor([3.0, 4.0, -torch.inf])
    assert relative_error(x, x) == 0
    assert relative_error(torch.tensor([3.0, 4.5, -torch.inf]), x) == pytest.approx(0.1)
    assert relative_error(torch.tensor([3.0, 4.0, 0.0]), x) == float("inf")
    assert relative_error(torch.tensor([3.0, torch.nan, -torch.inf]), x) == float("inf")
    assert relative_error(x[:2], x) == float("inf")


def test_a_plain_table_learns_by_row_wise_adagrad_and_sums_repeated_ids_first():
    rows = torch.arange(8.0).view(4, 2)
    table = PlainTable(rows.clone(), learning_rate=0.5)
    ids = PlainIds(["item"], torch.tensor([2, 0, 2]), torch.tensor([3]))
    vectors = table(ids)["item"].values()
    assert torch.equal(vectors, rows[[2, 0, 2]])

    vectors.backward(torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 2.0]]))
    gradients = torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 4.0], [0.0, 0.0]])
    squares = gradients.square().mean(1)
    expected = rows - 0.5 * gradients / (squares.sqrt() + 1e-8)[:, None]
    torch.testing.assert_close(table.squares_R, squares)
    torch.testing.assert_close(table.rows_Rd, expected)


def _report(section):
    return {
        "has_gpu": True,
        "commit": "abc",
        "seconds": 12.0,
        "sections": {"parity": {"seconds": 3.0, "error": "", "result": "ok", **section}},
    }


def test_the_page_has_a_table_for_each_kind_of_row_and_names_what_is_wrong():
    rows = [
        {"table": "kernels", "row": {"kernel": "drop", "ok": True}},
        {"table": "kernels", "row": {"kernel": "norm", "ok": False, "limit": 0.02}},
        {"table": "others", "row": {"ms": 1234.5}},
    ]
    report = _report({"rows": rows})
    text = page.page_of(report)
    assert "| norm | **no** | 0.02 |" in text
    assert "| drop | yes |  |" in text
    assert "| 1,234 |" in text or "| 1,235 |" in text
    assert page.failures(report) == ["parity"]
    assert page.failures(_report({"rows": rows[:1]})) == []

    stopped = _report({"rows": rows[:1], "result": "stopped after 3 s", "error": "the last line"})
    assert page.failures(stopped) == ["parity"]
    assert "the last line" in page.page_of(stopped)
