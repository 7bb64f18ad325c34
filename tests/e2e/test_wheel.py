"""From an installed wheel, outside the repository: corpora by name; a corpus, a prior, a backbone of one's own."""

import json
import os
import subprocess
import sys

import pytest
from command_line import REPOSITORY

CORPUS = """
import ibis
import pyarrow as pa
import pyarrow.csv

from torchrec_priors.preparation.corpus import Corpus, Labels


def load(raw, bad_rows):
    log = pyarrow.csv.read_csv(raw / "log.csv")
    items = pa.table({"item_id": log["item_id"].unique()}).sort_by("item_id")
    items = items.append_column("title", pa.array([f"thing {i}" for i in items["item_id"].to_pylist()]))
    labels = pa.table({"item_id": items["item_id"], "label": [i[0] for i in items["item_id"].to_pylist()]})
    log = log.append_column("order", pa.array(range(len(log)), pa.int64()))
    return Corpus(
        name="mine",
        interactions=ibis.memtable(log),
        items=ibis.memtable(items),
        category_prior="letter",
        default_horizon=2,
        item_priors=[Labels("letter", ibis.memtable(labels), remainder="none")],
    )
"""

PRIOR = """
import numpy as np

from torchrec_priors.priors.item import ItemPrior


def load(argument, data, horizon):
    modulus = int(argument)
    rows = np.arange(data.items)
    return ItemPrior("mine", [f"class {i}" for i in range(modulus)], rows, rows % modulus, data.items)
"""

ENCODER = """
import torch
from torch import nn

from torchrec_priors.encoder.encoder import EncoderConfig, Jagged


class Averages(nn.Module):
    def __init__(self, dim, keep):
        super().__init__()
        self.keep, self.out = keep, nn.Linear(dim, dim)

    def forward(self, histories: Jagged):
        bounds, states = histories.offsets_B1.tolist(), []
        for start, end in zip(bounds, bounds[1:]):
            state = torch.zeros_like(histories.vector_Nd[:1])[0] if start < end else None
            for vector in histories.vector_Nd[start:end]:
                state = self.keep * state + vector
                states.append(state)
        return self.out(torch.stack(states) if states else histories.vector_Nd)


def load(config: EncoderConfig, dim, context, event_types):
    return Averages(dim, config.options.get("keep", 0.9))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs an app of a wheel that was built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)

    def run(*arguments):
        command = [sys.executable, "-m", "torchrec_priors.apps", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import torchrec_priors; print(torchrec_priors.__file__)"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder / "site")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(folder / "site") in where.stdout
    return run


def test_a_corpus_by_name(installed, small_raw, tmp_path):
    out = installed("prepare", "--dataset", "movielens", "--raw", small_raw, "--out", tmp_path / "data")
    assert "prior genre (item)" in out


def test_a_corpus_a_prior_and_a_backbone_of_ones_own(installed, tmp_path):
    (tmp_path / "corpus.py").write_text(CORPUS)
    (tmp_path / "prior.py").write_text(PRIOR)
    (tmp_path / "averages.py").write_text(ENCODER)
    rows = [f"u{u},{'abc'[(u * t) % 3]}{(u * 7 + t * t) % 9},{t}" for u in range(12) for t in range(12)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    data, run = tmp_path / "data", tmp_path / "run"
    installed("prepare", "--dataset", tmp_path / "corpus.py", "--raw", tmp_path / "raw", "--out", data)
    (tmp_path / "run.toml").write_text(
        f"""
        [model]
        dim = 8
        horizon = 2
        [priors]
        tree = ["{tmp_path}/prior.py:3", "letter"]
        [encoder]
        backbone = "{tmp_path}/averages.py"
        options.keep = 0.5
        [training]
        steps = 3
        batch = 8
        """
    )
    installed("train", "--config", tmp_path / "run.toml", "--data", data, "--run", run)
    installed("evaluate", "--run", run, "--split", "test")
    assert json.loads((run / "eval" / "test" / "metrics.json").read_text())["users"] == 12
    answer = json.loads(installed("recommend", "--run", run, "--user", "u3", "--json", "-k", "3"))
    assert all(item["head"].startswith("class ") for item in answer["items"])
    assert all(item["title"] == f"thing {item['item_id']}" for item in answer["items"])
