"""HLLM on the texts of MovieLens 100K: trained from folders, resumed, evaluated, recommended from and served."""

import json
import shutil

import pytest
import tiny
import torch
from command_line import app
from language_models import write_language_model
from service.running import call, service

from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.ranks.process import join

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def data(ml_raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ml-100k") / "data"
    prepare(Settings("movielens", ml_raw, 8), folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hllm_from_texts_to_the_service(data, tmp_path):
    """Qwen2 reads items, and Llama reads their vectors."""
    items = write_language_model(tmp_path / "items", "qwen2", seed=1)
    users = write_language_model(tmp_path / "users", "llama", seed=2)
    texts = ["--model", items, "--columns", "title,genre", "--prompt", "", "--tokens", "40"]
    said = app("content", "tokenize", "--data", data, "--name", "texts", *texts).stdout
    assert "content texts: 1,682 of 1,682 items have a text of at most 40 tokens" in said

    settings = [
        "model.dim=16",
        "model.score=cosine",
        "model.context=10",
        "items.encoder=llm",
        "items.content=texts",
        f"items.llm.folder={items}",
        "items.recompute=true",
        "embedding.unseen=content",
        "embedding.ids=false",
        "encoder.backbone=llm",
        "encoder.dropout=0",
        f"encoder.llm.folder={users}",
        "negatives.per_set=64",
        "negatives.near_duplicates=0.99",
        'priors.tree=["genre"]',
        "training.batch=16",
        "training.steps=4",
        "training.evaluate_every=2",
        "training.learning_rate=0.003",
    ]
    run = tmp_path / "run"
    train = ["train", "--config", "torchx_configs/small.toml", "--data", data, "--run"]
    app(*train, run, *settings, timeout=900)

    # The folders are not needed any more, neither to resume nor to read the run.
    shutil.rmtree(items)
    shutil.rmtree(users)
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-00000004")
    (again / "checkpoints" / "best.json").write_text(json.dumps({"step": 2, "ndcg@10": 0.0}))
    app("train", "--config", again / "config.toml", "--data", data, "--run", again, timeout=900)
    weights = []
    for folder in (run, again):
        (folder / "checkpoints" / "best.json").write_text(json.dumps({"step": 4, "ndcg@10": 0.0}))
        with join() as ranks:
            weights.append(tiny.dense_parameters(tiny.best(folder, ranks)[2]))
    assert any("content.reader.model.layers" in name for name in weights[0])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    app("evaluate", "--run", run, "--split", "test", timeout=900)
    metrics = json.loads((run / "eval" / "test" / "metrics.json").read_text())
    assert metrics["users"] == 943
    assert metrics["age/30_to_365_days/recall@200"] > 0
    said = app("recommend", "--run", run, "--user", "1", "--k", "3").stdout
    with service("--run", run, "--state", "none:") as served:
        status, answer = call(served.port, "POST", "/v1/recommend", {"user": 1, "k": 3})
        assert status == 200
        assert all(str(found["item_id"]) in said for found in answer["items"])
    assert list((run / "item_vectors").rglob("*.parquet"))
