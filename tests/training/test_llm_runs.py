"""Runs with a language model as the encoder: trained, resumed, evaluated, served and exported."""

import json
import shutil

import pytest
import tiny
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from torchrec_priors import load_run
from torchrec_priors.config import with_changes
from torchrec_priors.errors import UserError
from torchrec_priors.planning.machines import MACHINES
from torchrec_priors.planning.read_request import from_config
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported
from torchrec_priors.training import trainer

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}
HEADS = {
    "priors": {"tree": ["temporal:2", "genre"]},
    "loss": {"gate": 1.0},
    "evaluation": {"batch": 16, "calibrated": True, "fusion": "mean"},
}
STEPS, STOP = 40, 30


class _KilledError(Exception):
    pass


def _config(llm, *, encoder=None, **sections):
    training = {"steps": STEPS, "evaluate_every": 20, "checkpoint_seconds": 0, "log_every": 1}
    encoder = {"backbone": "llm", "llm": llm, **(encoder or {})}
    merged = tiny.merged(
        HEADS, encoder=encoder, training={**training, **sections.pop("training", {})}
    )
    return with_changes(tiny.settings(**tiny.merged(merged, **sections)), ())


def _losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _checkpoint(run, tmp_path):
    dcp_to_torch_save(run / "checkpoints" / f"step-{STEPS:08}", tmp_path / "flat.pt")
    return torch.load(tmp_path / "flat.pt", weights_only=False)


def _equal(one, other):
    """Whether two nested dictionaries have the same tensors, to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else True


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def run(request, small_data, tmp_path_factory):
    """A run that began with the weights of a folder, which is gone, and the weights."""
    place = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model(request.param, vocab_size=30, **SIZES)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(place / "folder")
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}

    config = _config({"folder": str(place / "folder")})
    tiny.train(config, small_data, place / "run")
    shutil.rmtree(place / "folder")
    return config, place / "run", weights


@pytest.mark.slow
def test_it_starts_from_the_folder_and_learns(run):
    config, folder, weights = run
    losses = _losses(folder)
    assert sum(losses[step] for step in range(31, 41)) < sum(losses[step] for step in range(1, 11))
    with load_run(folder) as loaded:
        model = loaded.model.encoder.model
        assert model.config.model_type == config.encoder.llm.config["model_type"]
        learned = model.state_dict()
        assert len(learned) > 10
        for name, value in learned.items():
            # AdamW moves a number by about its rate in each step, which is at most 1e-3.
            assert 0 < (value - weights[name]).abs().max() < 0.04, name


@pytest.mark.slow
def test_it_resumes_to_the_same_bits(run, small_data, tmp_path, monkeypatch):
    config, _, _ = run
    # The folder is gone, so both runs begin with random weights.
    config = _config({"config": config.encoder.llm.config})
    whole = tmp_path / "whole"
    tiny.train(config, small_data, whole)

    step = trainer.step
    steps = iter(range(1, 100))

    def killed(*arguments, **named):
        if next(steps) == STOP:
            raise _KilledError
        return step(*arguments, **named)

    monkeypatch.setattr(trainer, "step", killed)
    with pytest.raises(_KilledError):
        tiny.train(config, small_data, tmp_path / "killed")
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "checkpoints" / f"step-{STEPS:08}").exists()

    tiny.train(config, small_data, tmp_path / "killed")
    assert _losses(tmp_path / "killed")[STEPS] == _losses(whole)[STEPS]
    (tmp_path / "a").mkdir()
    assert _equal(_checkpoint(whole, tmp_path), _checkpoint(tmp_path / "killed", tmp_path / "a"))


@pytest.mark.slow
def test_it_is_evaluated_and_its_levers_work(run, small_data):
    _, folder, _ = run
    with join() as ranks:
        config, data, built = tiny.best(folder, ranks)
        metrics = tiny.metrics_of(built, config, data, ranks)
    assert 0 < metrics["recall@200"] <= 1

    with load_run(folder) as loaded:
        found = loaded.recommend(history=[5, 50, 7], k=10)
        only = loaded.recommend(history=[5, 50, 7], k=10, only=["long-term"])
        (together, _) = loaded.recommend_many([[5, 50, 7], [8]], k=10)
    assert len(found) == 10
    assert {item.head.split(" / ")[0] for item in only} == {"long-term"}
    assert [item.item_id for item in together] == [item.item_id for item in found]
    assert [item.score for item in together] == [item.score for item in found], "to the last bit"


@pytest.mark.slow
def test_an_export_scores_as_the_run(run, tmp_path):
    _, folder, _ = run
    with load_run(folder) as loaded:
        export(loaded, tmp_path / "out")
        wanted = loaded.recommend(history=[5, 50, 7], k=10)
    found = load_exported(tmp_path / "out").recommend([5, 50, 7], k=10)
    assert [item.item_id for item in found] == [item.item_id for item in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=2e-5)


@pytest.mark.slow
def test_layers_may_be_computed_again_and_in_bf16(small_data, tmp_path):
    llm = {"config": {"model_type": "llama", **SIZES}}
    losses = []
    for name, recompute, precision in (
        ("plain", False, "fp32"),
        ("again", True, "fp32"),
        ("bf16", True, "bf16"),
    ):
        config = _config(llm, encoder={"recompute": recompute}, training={"precision": precision})
        tiny.train(config, small_data, tmp_path / name)
        losses.append(_losses(tmp_path / name))
    plain, again, bf16 = losses
    assert again == plain
    assert bf16 != plain
    assert bf16 == pytest.approx(plain, rel=0.1)


@pytest.mark.slow
def test_a_folder_without_weights_ends_a_run_before_its_first_step(small_data, tmp_path):
    folder = tmp_path / "folder"
    transformers.AutoConfig.for_model("llama", **SIZES).save_pretrained(folder)
    config = _config({"folder": str(folder)})
    with pytest.raises(UserError, match=r"has no safetensors \(pickled weights are not read\)"):
        tiny.train(config, small_data, tmp_path / "run")


@pytest.mark.slow
def test_the_planner_counts_weights_and_no_layers_of_hstu(small_data):
    data = PreparedData(small_data)
    llm = {"config": {"model_type": "llama", **SIZES}}
    config = _config(llm, priors={"tree": []})
    request = from_config(config, data, None, ranks=2, machine=MACHINES["h200"])
    # What a language model keeps for backward is counted beside the layers of HSTU.
    assert request.activations is not None
    assert request.activations.layers == 0
    # Two layers (attention with grouped queries, MLP, two norms), the last norm, two projections.
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16
    (language,) = request.language
    assert language.parameters + request.dense >= 2 * layer + 16 + (8 * 16 + 16) + (16 * 8 + 8)
