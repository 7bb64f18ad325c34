"""An exported run gives the scores that the run gives, and its files are the same from any number of ranks."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from distributed.ranks import run_on_ranks
from safetensors import safe_open

from torchrec_priors import load_run
from torchrec_priors.apps import command
from torchrec_priors.apps import export as app
from torchrec_priors.config import parse
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.serving import export as export_module
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported

HISTORIES = [[5, 50, 7], [8], list(range(30, 60))]
SETTINGS = tiny.settings(
    model={"context": 20, "score": "cosine"},
    negatives={"per_set": 10},
    training={"batch": 8, "steps": 2},
    evaluation={"batch": 8, "filter_seen": False},
)
HEADS = {
    "priors": {"tree": ["temporal:2", "genre"], "composition": "additive"},
    "loss": {"gate": 1.0},
}


def _export(run, out):
    with load_run(run) as loaded:
        return export(loaded, out)


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    _export(run, out)
    return out


def _gives_the_same(run, out, histories):
    exported = load_exported(out)
    with load_run(run) as loaded:
        assert exported.heads == loaded.heads
        everything = loaded.model.item_rows.recommendable_I
        k = len(exported.item_ids) if everything is None else int(everything.sum())
        for history in histories:
            scores_KI, place = (
                exported.scores(history),
                {id_: n for n, id_ in enumerate(exported.item_ids.to_pylist())},
            )
            seen = set(history) if loaded.config.evaluation.filter_seen else set()
            found = loaded.recommend(history, k=k)
            assert len(found) >= k - len(seen)
            for item in found:
                own = {loaded.heads.index(name): score for name, score in item.head_scores.items()}
                theirs_K = scores_KI[:, place[item.item_id]]
                assert torch.isfinite(theirs_K).nonzero().squeeze(1).tolist() == sorted(own)
                for path, score in own.items():
                    assert theirs_K[path] == pytest.approx(score, abs=2e-5)
    return exported


def test_scores_are_those_of_the_run(run, out):
    """Of an encoder with side features, whose vectors are not those that scores are computed with."""
    exported = _gives_the_same(run, out, HISTORIES)
    assert not torch.equal(exported.input_Id, exported.vector_Id)
    assert bool(exported.has_row_I.all())


@pytest.mark.parametrize(
    ("score", "changes"),
    [
        ("dot", {"encoder": {"backbone": "sasrec"}}),
        (
            "cosine",
            {
                "encoder": {"backbone": "shallow"},
                "baseline": {"name": "dualvae", "options": {"width": 8}},
            },
        ),
    ],
    ids=["sasrec", "dualvae"],
)
def test_scores_are_those_of_a_baseline_models_run(trained, tmp_path, score, changes):
    run = trained(parse(tiny.merged(SETTINGS, model={"score": score}, **changes)))
    out = tmp_path / "out"
    _export(run, out)
    _gives_the_same(run, out, HISTORIES)


@pytest.mark.parametrize(
    "embedding",
    [
        {"unseen": "dropped", "min_frequency": 12},
        {"unseen": "hashed", "min_frequency": 12, "hashed_rows": 5},
        {"unseen": "managed", "rows": 120, "blocks": 4, "eviction_interval": 1},
    ],
    ids=lambda policy: policy["unseen"],
)
def test_scores_are_those_of_a_run_some_of_whose_items_have_no_row(trained, tmp_path, embedding):
    run = trained(parse(tiny.merged(SETTINGS, **HEADS, embedding=embedding)))
    out = tmp_path / "out"
    about = _export(run, out)
    with load_run(run) as loaded:
        has_row_I = loaded.model.item_rows.has_row_I
        ids = loaded.catalogue.ids.to_pylist()
        without = [] if has_row_I is None else np.flatnonzero(~has_row_I).tolist()
    history = [ids[item] for item in range(len(ids)) if item not in without][:3] + [
        ids[item] for item in without[:2]
    ]
    assert about["items_without_vectors"] == len(without)
    assert (embedding["unseen"] == "dropped") == bool(without)
    exported = _gives_the_same(run, out, [history])
    assert np.flatnonzero(~exported.has_row_I.numpy()).tolist() == without
    for item in without[:1]:
        with pytest.raises(UserError, match="none of its items has a vector"):
            exported.scores([ids[item]])


def test_what_is_there(run, out, small_data):
    assert sorted(file.name for file in out.iterdir()) == [
        "config.toml", "export.json", "items.parquet", "trained.parquet", "weights.safetensors",
    ]  # fmt: skip
    items = pq.read_table(out / "items.parquet")
    assert (
        items["item_id"].to_pylist()
        == PreparedData(small_data).catalogue(["item_id"])["item_id"].to_pylist()
    )
    with load_run(run) as loaded, safe_open(out / "weights.safetensors", "pt") as weights:
        rows = torch.tensor(items["vector"].to_pylist())
        assert torch.equal(
            rows,
            loaded.model.table.state_dict()["embeddings.item.weight"].to_local().local_shards()[0],
        )
        assert not [name for name in weights.keys() if "table" in name]  # noqa: SIM118
        for name, value in loaded.model.encoder.named_parameters():
            assert torch.equal(weights.get_tensor(f"encoder.{name}"), value)


@pytest.mark.slow
def test_two_ranks_write_the_same_bytes(run, out, tmp_path, monkeypatch):
    run_on_ranks(2, _export, run, tmp_path / "two")
    for file in out.iterdir():
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes(), file.name
    monkeypatch.setattr(export_module, "_ENTRIES", 100)
    _export(run, tmp_path / "blocks")
    assert pq.ParquetFile(tmp_path / "blocks" / "items.parquet").num_row_groups > 10
    assert pq.read_table(tmp_path / "blocks" / "items.parquet").equals(
        pq.read_table(out / "items.parquet")
    )


def test_mistakes(run, out, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            command.run(app.export, [str(argument) for argument in arguments])
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return ended.value.code, error

    code, said = refused("--run", run, "--out", out)
    assert code == 2
    assert "exists and is not empty" in said
    code, said = refused("--run", run, "--out", out / "export.json")
    assert code == 2
    assert "exists and is not empty" in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        command.run(app.export, ["--run", str(run), "--out", str(tmp_path / "empty")])
    assert ended.value.code == 0
    assert "vectors of 150 items" in capsys.readouterr().out
    file = tmp_path / "empty" / "items.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"items.parquet' is missing or not as it was written"):
        load_exported(tmp_path / "empty")
    with pytest.raises(UserError, match="holds no export"):
        load_exported(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "save", full)
    with pytest.raises(OutsideError, match="full': No space left on device"):
        _export(run, tmp_path / "full")
    assert not list(tmp_path.glob("*full*"))
    assert json.loads((out / "export.json").read_text())["checkpoint"] == "step-00000002"
