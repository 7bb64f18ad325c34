"""`plan` on the command line: what it prints, and what it refuses with one line and exit code 2."""

import json
import logging
import shlex

import pytest

from torchrec_priors.apps import command
from torchrec_priors.apps.plan import plan


@pytest.fixture
def planned(capsys, monkeypatch):
    """Runs the command here: (exit code, standard output, standard error)."""
    package = logging.getLogger("torchrec_priors")
    monkeypatch.setattr(package, "level", package.level)  # which the command changes

    def run(line):
        with pytest.raises(SystemExit) as ended:
            command.run(plan, shlex.split(line))
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_one_plan(planned):
    code, out, _ = planned("--items 1B --dim 256 --ranks 64")
    assert code == 0
    assert "item: row_wise, fused, 64 shards (ranks 0-63: 15,625,000 x 256)" in out
    assert "limited by the network between nodes" in out
    assert "activations of a step          not counted" in out


def test_activations_have_a_row(planned):
    _, out, _ = planned("--items 1B --dim 256 --ranks 64 --layers 8 --precision bf16 --json")
    memory = json.loads(out)["ranks"][0]["memory"]
    assert memory["activations"] > 8 * 36 * 128 * 200 * 256
    _, out, _ = planned("--items 1B --dim 256 --ranks 64 --layers 8 --precision bf16")
    assert f"activations of a step          {memory['activations'] / 1e9:>8.2f} GB" in out


def test_one_json_object(planned):
    code, out, _ = planned("--items 1.26M --dim 256 --ranks 2 --device cpu --json")
    found = json.loads(out)
    assert code == 0
    assert [shard["rows"] for shard in found["tables"][0]["shards"]] == [630_000] * 2
    assert found["ranks"][0]["memory"]["table"] == 630_000 * 256 * 4


def test_published_figures_can_be_changed(planned):
    _, out, _ = planned(
        "--items 1B --dim 256 --ranks 64 --memory 80GB --network-bandwidth 25GB --json"
    )
    machine = json.loads(out)["request"]["machine"]
    assert (machine["memory"], machine["network_bandwidth"], machine["node_bandwidth"]) == (
        80 * 10**9,
        25 * 10**9,
        450 * 10**9,
    )


def test_a_configuration(planned):
    code, out, _ = planned(
        "--config torchx_configs/merrec.toml --items 1.26M --ranks 8 training.batch=80"
    )
    assert code == 0
    assert "10 windows a rank" in out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--items 0 --dim 64", ["--items: '0'", "10B"]),
        ("--items 1M --dim -1", ["--dim", "-1"]),
        ("--items 1M --dim 6", ["--dim", "multiple of 4"]),
        ("--items 1M", ["--items and --dim", "--config"]),
        ("--items 10000T --dim 64", ["--items", "more than can be planned"]),
        ("--items 1M --dim 64 --device h20", ["--device", "'h20'", "did you mean 'h200'?"]),
        ("--items 1M --dim 64 --ranks 12", ["--ranks 12", "take 16"]),
        ("--items 1M --dim 64 --ranks 8,12", ["--ranks 12"]),
        ("--items 1M --dim 64 --ranks 10000", ["--ranks", "8,192"]),
        ("--items 1M --dim 64 --memory much", ["--memory: 'much'"]),
        ("--items 1M --dim 64 --device cpu --host-memory 2GB", ["--host-memory has no effect"]),
        ("--items 1M --dim 64 --device cpu --ranks 2 --kernel fused_uvm", ["fused_uvm", "GPUs"]),
        ("--items 1M --dim 64 --device cpu --ranks 2 --optimizer adam", ["--optimizer adam"]),
        ("--items 1M --dim 64 --kernel fuse", ["--kernel 'fuse'", "did you mean 'fused'?"]),
        (
            "--items 1M --dim 64 --sharding data_parallel",
            ["--sharding 'data_parallel'", "table_wise"],
        ),
        ("--items 1M --dim 64 --ranks-per-node 0", ["--ranks-per-node"]),
        ("--items 1M --dim 64 --reserve 1", ["--reserve"]),
        ("--items 1M --dim 64 --batch 0", ["--batch"]),
        ("--items 1M --dim 64 --data there", ["--data", "'there'"]),
        ("--items 1M --dim 64 model.dim=8", ["model.dim=8", "--config"]),
        (
            "--config torchx_configs/merrec.toml --items 1M --dim 64",
            ["--dim cannot be combined with --config"],
        ),
        ("--items 1M --dim 64 --plot x.png", ["--plot", "sweep"]),
        ("--items 1M --dim 64 --ranks 8,16 --plot x.bmp", ["--plot", ".png"]),
        ("--items 1M --dim 64 --measure", ["--measure needs --device cpu"]),
        ("--items 1M --dim 64 --device cpu --ranks 1024 --measure", ["--measure: 1024 ranks"]),
        (
            "--items 1B --dim 64 --device cpu --ranks 1 --measure --memory 1TB",
            ["--measure: a table of 1B x 64"],
        ),
        ("--items 1B --dim 256 --ranks 8", ["128.53 GB", "119.85 GB", "--ranks 16"]),
    ],
)
def test_refused(planned, line, says):
    code, out, error = planned(line)
    assert code == 2
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for words in says:
        assert words in error
