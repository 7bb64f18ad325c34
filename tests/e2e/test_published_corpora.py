"""MerRec, Pixel8M and EB-NeRD by commands: made up, prepared, trained on, evaluated, recommended."""

import json

import pyarrow.parquet as pq
import pytest
from command_line import REPOSITORY, TINY, app

from torchrec_priors.prepared.manifest import read_manifest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "heads"),
    [
        ("merrec", ["min_history=50", "item_id=product_id"], 'priors.tree=["event"]'),
        ("pixel8m", ["min_history=30"], 'priors.tree=["temporal:2", "category"]'),
        (
            "ebnerd",
            ["min_history=100", "communities=4", "crowds=0"],
            'priors.tree=["temporal:2", "community"]',
        ),
    ],
)
def test_a_published_corpus_by_commands(name, options, heads, tmp_path):
    raw, data, run = tmp_path / "raw", tmp_path / "data", tmp_path / "run"
    given = [part for option in options for part in ("--option", option)]
    made = app(
        "prepare", "--dataset", name, "--generate", 5_000, "--raw", raw, "--out", data, *given
    ).stdout
    assert made.startswith(f"{name}: ")
    assert options[0].replace("min_history=", "users of fewer than ") in made
    assert read_manifest(data).settings["options"]["min_history"] == int(options[0].split("=")[1])
    config = REPOSITORY / f"torchx_configs/{name}.toml"
    app("train", "--config", config, "--data", data, "--run", run, *TINY, heads, "model.context=50")
    app("evaluate", "--run", run, "--split", "test")
    metrics = json.loads((run / "eval/test/metrics.json").read_text())
    assert metrics["users"] == read_manifest(data).counts["users"]
    assert metrics["reachable/targets_share"] == 1.0, (
        "a shipped configuration can find what it is measured by"
    )
    assert metrics["reachable/heads_in_vain"] == 0
    answer = json.loads(
        app("recommend", "--run", run, "--user", _user(data), "-k", 3, "--json").stdout
    )
    assert len(answer["items"]) == 3


def test_an_unknown_option_is_named_before_anything_is_made(tmp_path):
    arguments = [
        "--dataset",
        "merrec",
        "--raw",
        tmp_path / "raw",
        "--out",
        tmp_path / "data",
        "--generate",
        5_000,
    ]
    done = app("prepare", *arguments, "--option", "min_histroy=9", check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: --option: this corpus has no option 'min_histroy': did you mean 'min_history'?\n"
    )
    assert not (tmp_path / "raw").exists()


def _user(data):
    return pq.read_table(data / "sequences/part-00000.parquet", columns=["user_id"])["user_id"][
        0
    ].as_py()
