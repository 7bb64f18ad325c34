"""`bench --shape serve`: what it measures, and that its figures belong to a real service."""

import json
from dataclasses import replace

import pytest

from torchrec_priors.apps import bench as app
from torchrec_priors.apps import command
from torchrec_priors.bench import requests, serve
from torchrec_priors.bench.requests import CASES
from torchrec_priors.bench.serve import Served, ServiceBench, check_case, table
from torchrec_priors.errors import UserError

SMALL = {
    "sequences": 9,
    "context": 12,
    "items": 300,
    "negatives": 44,
    "dim": 16,
    "layers": 1,
}


def test_the_table_has_a_line_for_each_measurement():
    rows = [
        Served("one call at a time", 100.0, 1.0, 0.01, 0.02, 0.03, peak_bytes=2 * 10**9),
        Served("HTTP, 50 %", 40.0, 0.4, 0.0123, 0.02, 0.03, 0.025, 0.25, 10**9, 0.08),
    ]
    lines = table(ServiceBench("ml-100k", 1_682, 4, 64, rows)).splitlines()
    assert lines[0] == "# serve: ml-100k (1,682 items, 4 heads, 64 users)"
    assert lines[4] == (
        "| one call at a time | 100.0 | 1.00 | 10.0 ms | 20.0 ms | 30.0 ms |  | 0.0% | 2.00 GB |  |"
    )
    assert lines[5] == (
        "| HTTP, 50 % | 40.0 | 0.40 | 12.3 ms | 20.0 ms | 30.0 ms | 25.0 ms | 25.0% | 1.00 GB | 8% |"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shape", "serve", "--case", "mercari"], "there is no case 'mercari'"),
        (["--shape", "serve", "--case", "merrec", "--run", "r"], "give either --run or --case"),
        (["--shape", "requests", "--case", "merrec"], "--run and --case belong to --shape serve"),
        (["--shape", "serve", "--seconds", "0"], "--seconds must be above 0"),
        (["--shape", "serve", "--ablations"], "cannot be combined with --only"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        command.run(app.bench, arguments, single_process=True)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in error
    assert error.count("\n") == 1


def test_every_case_of_requests_can_be_served():
    for name in CASES:
        check_case(name)
    with pytest.raises(UserError, match="did you mean 'merrec'"):
        check_case("merec")


@pytest.mark.slow
def test_a_service_is_measured_from_its_start_to_its_end(monkeypatch, capsys):
    case = replace(CASES["merrec"], shape=replace(CASES["merrec"].shape, **SMALL))
    monkeypatch.setitem(requests.CASES, "merrec", case)
    monkeypatch.setattr(serve, "_RATE", 20.0)
    arguments = ["--shape", "serve", "--case", "merrec", "--seconds", "1", "--repeats", "1"]
    with pytest.raises(SystemExit) as ended:
        command.run(app.bench, [*arguments, "--threads", "1", "--json"], single_process=True)
    assert ended.value.code == 0

    measured = json.loads(capsys.readouterr().out)
    assert (measured["items"], measured["heads"], measured["users"]) == (300, 6, 9)
    assert measured["machine"]["threads"] == 1
    rows = {row["variant"]: row for row in measured["rows"]}
    assert list(rows) == [
        "bare arithmetic",
        "one call at a time",
        "HTTP, 16 clients: batches, cache",
        "HTTP, 50%, cache",
        "HTTP, 16 clients: no batches, cache",
        "HTTP, 16 clients: no batches, no cache",
        "HTTP, 16 clients: batches, no cache",
        "HTTP, 25%",
        "HTTP, 50%",
        "HTTP, 80%",
        "HTTP, 20 per second",
    ]
    alone = rows["one call at a time"]
    assert alone["ratio"] == 1
    for row in measured["rows"]:
        assert row["per_second"] > 0
        assert row["failed"] < 0.5
        assert row["ratio"] == pytest.approx(row["per_second"] / alone["per_second"])
        if row["variant"].startswith("HTTP"):
            assert 0 < row["p50"] <= row["p95"] <= row["p99"]
            assert row["p50"] / 2 < row["p99_second"]
            assert 0 < row["load_cpu"] < 1
            # The libraries of a process alone take more.
            assert row["peak_bytes"] > 1e8
