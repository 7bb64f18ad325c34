"""Whatever happens to a file that is read: what comes out is what it was, or one line says what is wrong."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e.damage import Subject, campaign, run
from small_movielens import write_movielens

from torchrec_priors.apps import evaluate, export, recommend, report, train
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import FILE, verify
from torchrec_priors.serving.exported import load_exported

CONFIG = """
[model]
dim = 8
context = 20
horizon = 4
[encoder]
layers = 1
heads = 2
[priors]
tree = ["temporal:2", "genre", "rating"]
composition = "additive"
[negatives]
per_set = 10
[embedding]
unseen = "dropped"
[training]
batch = 8
steps = 4
evaluate_every = 2
[evaluation]
batch = 32
"""
TIMES = {"seconds", "ranks", "started", "users_per_second"}  # of metrics.json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`one` and `other`, each with `data`, `run` and `export` of the same kinds and other content."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "config.toml").write_text(CONFIG)
    for number, name in enumerate(("one", "other")):
        home = folder / name
        write_movielens(home / "raw")
        prepare(Settings("movielens", home / "raw", 8 - number, seed=number), home / "data")
        # The other run is of the same data, so that its files are as alike as can be.
        data = folder / "one" / "data"
        run(
            train.train,
            "--config",
            folder / "config.toml",
            "--data",
            data,
            "--run",
            home / "run",
            f"seed={number}",
        )
        for split in ("validation", "test"):
            run(evaluate.evaluate, "--run", home / "run", "--split", split)
        run(export.export, "--run", home / "run", "--out", home / "export")
    return folder


def _files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _content(data_folder: Path):
    """All that the package reads of a data set."""
    data = PreparedData(data_folder)
    read = [data.read_users(group, ["timestamps", "events"]) for group in data.row_groups]
    priors = {prior.name: prior for prior in data.manifest.priors}
    entity = {"item": "item", "graph": "item", "event": "event", "user": "user_id"}
    return {
        "manifest": data.manifest,
        "items": data.catalogue().to_pydict(),
        "histories": [_lists(users) for users in read],
        "users": data.user_texts().to_pylist(),
        "lengths": data.lengths.tolist(),
        "priors": {name: [part.tolist() for part in data.prior_pairs(name, entity[prior.kind])]
                   for name, prior in priors.items()},
        "eligible": [part.tolist() for part in data.prior_pairs("rating.eligible", "item")],
    }  # fmt: skip


def _lists(users):
    return users.items.tolist(), {name: of.tolist() for name, of in users.columns.items()}


def _evaluated(run_folder: Path, data: Path):
    """What an evaluation writes."""
    written = run_folder / "eval" / "test-again"
    shutil.rmtree(written, ignore_errors=True)
    run(
        evaluate.evaluate, "--run", run_folder, "--split", "test", "--data", data, "--name", "again"
    )
    metrics = json.loads((written / "metrics.json").read_text())
    predictions = pq.read_table(written / "predictions.parquet").to_pydict()
    shutil.rmtree(written)
    left = {
        name: value for name, value in metrics.items() if name not in TIMES and name != "sha256"
    }
    return {**left, "predictions": predictions}


def _trained(run_folder: Path, config: Path, data: Path):
    """What a run that has ended says when it is started again: nothing is trained, or the rest as before."""
    said = run(train.train, "--config", config, "--data", data, "--run", run_folder)
    return said.replace(str(run_folder), "")


def _reported(run_folder: Path, out: Path):
    shutil.rmtree(out, ignore_errors=True)
    said = run(report.report, "--runs", run_folder, "--out", out)
    page = (out / "index.html").read_text()
    return {
        "said": "\n".join(line for line in said.splitlines() if not line.startswith("written")),
        "page": page,
    }


def _exported(folder: Path):
    exported = load_exported(folder)
    scores = exported.scores([5, 50, 7])[0]
    return {
        "ids": exported.item_ids.to_pylist(),
        "scores": scores.tolist(),
        "heads": list(exported.heads),
    }


def _subjects(made: Path) -> list[Subject]:
    one, other, config = made / "one", made / "other", made / "config.toml"
    data = one / "data"
    of_run = _files(one / "run")
    read_by_all = [
        path for path in of_run if not path.startswith(("eval/", "events", "tensorboard"))
    ]
    evaluated = [
        path for path in read_by_all if Path(path).name not in ("metrics.jsonl", "summary.json")
    ]
    shown = [
        path
        for path in of_run
        if path.startswith("eval/")
        or path in ("config.toml", "data.json", "metrics.jsonl", "summary.json")
    ]
    page = made / "page"

    def subject(name, home, files, read):
        return Subject(name, one / home, files, other / home, read)

    return [
        subject("data", "data", [path for path in _files(data) if not path.startswith("held")], _content),
        subject("evaluate", "run", evaluated, lambda place: _evaluated(place, data)),
        subject("verify", "data", _files(data), lambda place: verify(place)),
        subject("recommend", "run", evaluated, lambda place: run(
            recommend.recommend, "--run", place, "--user", "9", "--json")),
        subject("evaluate on", "data", [path for path in _files(data) if not path.startswith("held")],
                lambda place: _evaluated(one / "run", place)),
        subject("train", "run", read_by_all, lambda place: _trained(place, config, data)),
        subject("export", "export", _files(one / "export"), _exported),
        subject("report", "run", shown, lambda place: _reported(place, page)),
    ]  # fmt: skip


def _check(findings, least):
    print(f"{findings.tried} damages: {findings.same} changed nothing, {findings.refused} were refused in one line, "
          f"{findings.said} were left out with a word, {len(findings.faults)} faults")  # fmt: skip
    assert not findings.faults, "\n\n".join(findings.faults[:20])
    assert findings.tried >= least
    assert findings.refused > findings.tried / 2


def test_a_few_damages_of_a_data_set(small_data, tmp_path):
    files = [path for path in _files(small_data) if not path.startswith("held")]
    assert FILE in files
    subject = Subject("data", small_data, files, small_data / "nowhere", _content)
    _check(campaign([subject], 40, 0, tmp_path, print), 30)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_a_thousand_damages_of_everything_that_is_read(made, tmp_path):
    _check(campaign(_subjects(made), 1250, 0, tmp_path, print), 1000)
