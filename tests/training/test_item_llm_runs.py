"""Runs with an item LLM: frozen, LoRA or whole; resumed, evaluated, recommended from; the same on two ranks."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
import torch.distributed as dist
from distributed.ranks import run_on_ranks
from language_models import SIZES, write_language_model
from run_files import losses

from torchrec_priors.content.tokenize import tokenize_items
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.tokens import read_tokens
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.run import load_run
from torchrec_priors.training import catalogue

pytest.importorskip("transformers")
pytest.importorskip("peft")

USER = {"backbone": "llm", "dropout": 0.0, "llm": {"config": {"model_type": "qwen2", **SIZES}}}


# Rare items have no rows, and their texts are mapped.
ROWS = {"id_dropout": 0.2, "min_frequency": 12, "map_content": True}


def config(tuning, *, hllm=True, **more):
    """HLLM: both language models and no rows of items; or HSTU with rows."""
    items = {
        "encoder": "llm",
        "content": "tokens",
        "tuning": tuning,
        "lora_rank": 2,
        "llm": {"config": {"model_type": "llama", **SIZES}},
    }
    sections = {
        "model": {"score": "cosine", "dim": 16},
        "priors": {"tree": ["temporal:2", "genre"]},
        "items": items,
        "embedding": {"unseen": "content"} | ({"ids": False} if hllm else ROWS),
        "training": {"accumulate": 2, "learning_rate": 0.01},
        "encoder": USER if hllm else {},
    }
    return tiny.config(**tiny.merged(sections, **more))


@pytest.fixture(scope="module")
def data(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("described") / "data"
    shutil.copytree(small_data, folder)
    model = write_language_model(tmp_path_factory.mktemp("model"))
    tokenize_items(PreparedData(folder), "tokens", model, ["title", "genre"], prompt="", tokens=24)
    return folder


@pytest.fixture(scope="module")
def hllm(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    tiny.train(config("whole"), data, run)
    return run


def test_tokens_are_those_of_the_named_texts(data):
    tokens = read_tokens(PreparedData(data), "tokens")
    title = PreparedData(data).catalogue(["title"])["title"].to_pylist()[7]
    found = tokens.token_V[tokens.first_M1[7] : tokens.first_M1[8]]
    text = f"title: {title}. genre: "[:24].replace("é", chr(31))  # no letter of the tokenizer
    assert "".join(chr(token + 30) for token in found)[: len(text)] == text
    assert len(tokens.item_M) == 150
    with pytest.raises(UserError, match=r"'tokens' holds tokens, which items.content reads"):
        tiny.train(tiny.config(embedding={"content": "tokens"}), data, data.parent / "never")


def test_hllm_learns_and_recommends(hllm, data):
    found = losses(hllm)
    assert np.isfinite(found).all()
    assert found[-1] < found[0]
    with load_run(hllm, data) as run:
        assert run.recommend([run.catalogue.item_id(3)], k=5).source == "model"


def test_vectors_of_the_catalogue_are_kept_and_damaged_ones_are_read_again(
    hllm, data, monkeypatch, tmp_path
):
    read = []
    forward = ItemLLM.forward

    def counted(self, text_U):
        read.append(len(text_U))
        return forward(self, text_U)

    monkeypatch.setattr(ItemLLM, "forward", counted)
    monkeypatch.setattr(catalogue, "PIECE", 64)
    run = tmp_path / "run"
    shutil.copytree(hllm, run)
    shutil.rmtree(run / "item_vectors", ignore_errors=True)
    with load_run(run, data) as loaded:
        first = loaded.finder.index.shard.rows.clone()
    assert read == [64, 64, 22]

    read.clear()
    pieces = sorted((run / "item_vectors").rglob("*.parquet"))
    assert len(pieces) == 3
    pieces[0].write_bytes(pieces[0].read_bytes()[:50])
    pieces[1].unlink()
    with load_run(run, data) as loaded:
        torch.testing.assert_close(loaded.finder.index.shard.rows, first)
    assert len(read) == 2
    read.clear()
    with load_run(run, data):
        assert read == []


def test_a_run_resumes_to_the_same_bits(hllm, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(hllm, again)
    shutil.rmtree(again / "checkpoints" / "step-00000004")
    (again / "checkpoints" / "best.json").write_text(json.dumps({"step": 2, "ndcg@10": 0.0}))
    tiny.train(config("whole"), data, again)
    found = []
    for run in (hllm, again):
        (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 4, "ndcg@10": 0.0}))
        with join() as ranks:
            _, _, built = tiny.best(run, ranks)
            found.append(tiny.dense_parameters(built))
    assert any(name.startswith("content.reader.model.layers") for name in found[0])
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("hllm", [True, False])
def test_what_is_trained_depends_on_the_tuning(data, tmp_path, hllm):
    weights = {}
    for steps in (1, 4):
        for tuning in ("frozen", "lora", "whole"):
            run = tmp_path / f"{tuning}-{steps}"
            few = {"steps": 4, "evaluate_every": steps, "keep_last": 9}
            tiny.train(config(tuning, hllm=hllm, training=few), data, run)
            (run / "checkpoints" / "best.json").write_text(
                json.dumps({"step": steps, "ndcg@10": 0.0})
            )
            with join() as ranks:
                _, _, built = tiny.best(run, ranks)
                weights[tuning, steps] = {
                    name: value.clone() for name, value in built.model.content.state_dict().items()
                }
    for tuning in ("frozen", "lora", "whole"):
        early, late = weights[tuning, 1], weights[tuning, 4]
        moved = {name for name in early if not torch.equal(early[name], late[name])}
        kept = set(early) - moved
        if tuning == "frozen":
            assert moved == {"projection.weight", "projection.bias"}
        elif tuning == "lora":
            assert all("lora_" in name or name == "reader.item_h" for name in moved)
            assert any("lora_A" in name for name in moved)
        else:
            assert not kept, kept


def train_all(data, folder):
    answers = {}
    with join() as ranks:
        for tuning, hllm in (("frozen", False), ("lora", True), ("whole", True), ("whole", False)):
            run = folder / f"{tuning}-{hllm}"
            more = {"sharding": {"dedup": True}, "negatives": {"catalogue_share": 0.2}}
            tiny.train(config(tuning, hllm=hllm, **more), data, run)
            settings, prepared, built = tiny.best(run, ranks)
            metrics = tiny.metrics_of(built, settings, prepared, ranks, by_group=())
            assert hllm or built.model.content.mapped.map is not None
            answers[tuning, hllm] = (losses(run), metrics["ndcg@10"], tiny.dense_parameters(built))
    return answers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_are_as_one(data, tmp_path):
    alone = run_on_ranks(1, train_all, data, tmp_path / "one")[0]
    for answers in run_on_ranks(2, train_all, data, tmp_path / "two"):
        for key, (found, ndcg, dense) in answers.items():
            np.testing.assert_allclose(found, alone[key][0], rtol=1e-4, err_msg=key)
            assert ndcg == pytest.approx(alone[key][1], abs=3e-3), key
            for name, value in dense.items():
                torch.testing.assert_close(
                    value, alone[key][2][name], atol=2e-4, rtol=2e-2, msg=f"{key} {name}"
                )


TUNINGS = ("whole", "lora")
CLIPPED = {"training": {"clip_norm": 0.05}}


def train_divided(data, folder):
    """Trains with copies of the language models on each rank, and on several also with parts of them."""
    answers = {}
    with join() as ranks:
        for tuning in TUNINGS:
            for divided in (False, True)[: ranks.world]:
                run = folder / f"{tuning}-{divided}"
                more = {"sharding": {"language_models": divided}, **CLIPPED}
                tiny.train(config(tuning, **more), data, run)
                answers[tuning, divided] = (losses(run), last_weights(run, ranks))
    return answers


def last_weights(run, ranks):
    """The dense parameters of the last step, which need not be the best."""
    if ranks.leads:
        best = {"step": 4, "ndcg@10": 0.0}
        (run / "checkpoints" / "best.json").write_text(json.dumps(best))
    dist.barrier(ranks.side)
    return tiny.dense_parameters(tiny.best(run, ranks)[2])


def resume_divided(data, folder):
    answers = {}
    with join() as ranks:
        for tuning in TUNINGS:
            run = folder / f"{tuning}-True"
            more = {"sharding": {"language_models": True}, **CLIPPED}
            tiny.train(config(tuning, **more), data, run)
            answers[tuning] = last_weights(run, ranks)
    return answers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_divided_language_models_learn_as_copies_do(data, tmp_path):
    """FSDP2 on two ranks of gloo: whole models and LoRA learn as on one rank, and resume to the same bits."""
    alone = run_on_ranks(1, train_divided, data, tmp_path / "one")[0]
    found = run_on_ranks(2, train_divided, data, tmp_path / "two")
    for answers in found:
        for tuning in TUNINGS:
            of_parts, weights = answers[tuning, True]
            np.testing.assert_allclose(of_parts, answers[tuning, False][0], rtol=1e-5)
            np.testing.assert_allclose(of_parts, alone[tuning, False][0], rtol=1e-4)
            for name, value in weights.items():
                copy = answers[tuning, False][1][name]
                torch.testing.assert_close(value, copy, atol=1e-5, rtol=1e-3, msg=name)

    for tuning in TUNINGS:
        run = tmp_path / "two" / f"{tuning}-True"
        shutil.rmtree(run / "checkpoints" / "step-00000004")
        (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 2, "ndcg@10": 0.0}))
    resumed = run_on_ranks(2, resume_divided, data, tmp_path / "two")[0]
    for tuning in TUNINGS:
        before = found[0][tuning, True][1]
        assert any("lora_" in name for name in before) == (tuning == "lora")
        assert all(torch.equal(value, resumed[tuning][name]) for name, value in before.items())
