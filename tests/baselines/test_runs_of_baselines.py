"""A run with a baseline: what it keeps, going on after it was stopped, evaluation, recommendations, export, plan."""

import json

import pyarrow.parquet as pq
import pytest
import tiny
from run_files import losses

from torchrec_priors import load_run
from torchrec_priors.apps import evaluate
from torchrec_priors.config import load_config, parse
from torchrec_priors.errors import UserError
from torchrec_priors.planning.machines import MACHINES
from torchrec_priors.planning.read_request import from_config
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported
from torchrec_priors.training import loop, trainer
from torchrec_priors.training.build import build_model

SETTINGS = tiny.settings(
    baseline={"name": "comirec", "interests": 3},
    table={"init_std": 1.0},
    training={"steps": 8, "evaluate_every": 8, "checkpoint_seconds": 0},
)
HEADS = ["interest 1", "interest 2", "interest 3"]


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """A run that may be evaluated."""
    folder = tmp_path_factory.mktemp("baseline") / "run"
    tiny.train(parse(SETTINGS), small_data, folder)
    return folder


def test_the_run_counts_the_parameters_and_every_target_once_for_each_interest(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"]["heads"] == 4 * 8 * 8 + 4 * 8 * 3
    recorded = json.loads((run / "paths.json").read_text())
    assert [path["name"] for path in recorded["paths"]] == HEADS
    assert all(path["positives"] == recorded["targets"] > 0 for path in recorded["paths"])
    assert all(path["backed_off_to"] is None for path in recorded["paths"])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, small_data, tmp_path, monkeypatch):
    step = trainer.step

    def until_four(built, optimizers, batch, **named):
        if batch.step == 4:
            raise KeyboardInterrupt
        return step(built, optimizers, batch, **named)

    monkeypatch.setattr(trainer, "step", until_four)
    monkeypatch.setattr(loop, "_ASK_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(parse(SETTINGS), small_data, tmp_path / "run")
    monkeypatch.setattr(trainer, "step", step)
    tiny.train(parse(SETTINGS), small_data, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(run)
    assert len(losses(run)) == 8


def test_evaluation_and_recommendations_name_interests(run):
    evaluate.evaluate(run, evaluate.Split.test)
    heads = pq.read_table(run / "eval/test/predictions.parquet")["heads"].to_pylist()
    assert {head for of_user in heads for head in of_user} == set(HEADS)
    with load_run(run) as loaded:
        assert loaded.heads == HEADS
        found = loaded.recommend([5, 50, 7], k=100)
        assert {item.head for item in found} <= set(HEADS)
        assert all(set(item.head_scores) == set(HEADS) for item in found)
        assert all(item.score == pytest.approx(max(item.head_scores.values())) for item in found)
        alone = loaded.recommend([5, 50, 7], k=100, only=["interest 2"])
        assert {item.head for item in alone} == {"interest 2"}
        assert [item.score for item in alone] == sorted(
            (item.score for item in alone), reverse=True
        )
        boosted = loaded.recommend([5, 50, 7], k=100, boost={"interest 2": 1e9})
        assert [item.item_id for item in boosted] == [item.item_id for item in alone]


def test_an_export_gives_the_same_scores(run, tmp_path):
    with load_run(run) as loaded:
        export(loaded, tmp_path / "out")
        found = loaded.recommend([5, 50, 7], k=20)
    exported = load_exported(tmp_path / "out")
    scores_KI, ids = exported.scores([5, 50, 7]), exported.item_ids.to_pylist()
    for item in found:
        of_heads = dict(
            zip(exported.heads, scores_KI[:, ids.index(item.item_id)].tolist(), strict=True)
        )
        assert of_heads == pytest.approx(item.head_scores, abs=2e-5)


def test_a_plan_counts_its_parameters(small_data):
    with_it, without = (
        from_config(
            parse({**SETTINGS, "baseline": baseline}),
            PreparedData(small_data),
            None,
            ranks=2,
            machine=MACHINES["h200"],
        )
        for baseline in (SETTINGS["baseline"], {})
    )
    assert with_it.dense - without.dense == 4 * 8 * 8 + 4 * 8 * 3


def test_a_plan_counts_a_score_of_its_own(small_data):
    settings = {**SETTINGS, "baseline": {"name": "dualvae", "options": {"aspects": 3, "width": 4}}}
    data = PreparedData(small_data)
    with join() as ranks:
        model = build_model(parse(settings), data, ranks).model
    planned = from_config(parse(settings), data, None, ranks=2, machine=MACHINES["h200"])
    parts = (model.encoder, model.baseline, model.score)
    assert sum(parameter.numel() for parameter in model.score.parameters()) > 0
    assert planned.dense == sum(
        parameter.numel() for part in parts for parameter in part.parameters()
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"baseline": {"name": "dualvae", "interests": 3}}, "set baseline.options.aspects"),
        (
            {"baseline": {"name": "mind"}, "evaluation": {"fusion": "mean"}},
            "MIND needs evaluation.fusion=max",
        ),
    ],
)
def test_settings_that_would_have_no_effect_or_a_wrong_one(small_data, changes, says):
    with join() as ranks, pytest.raises(UserError) as error:
        build_model(parse({**SETTINGS, **changes}), PreparedData(small_data), ranks)
    assert says in str(error.value)


def test_mind_is_fused_by_any_rule_where_everyone_has_all_interests(small_data):
    changes = {
        "baseline": {"name": "mind", "options": {"adaptive": False}},
        "evaluation": {"fusion": "mean"},
    }
    with join() as ranks:
        built = build_model(parse({**SETTINGS, **changes}), PreparedData(small_data), ranks)
        assert built.model.baseline is not None


OWN = """
from torch import nn

class Last(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layer = nn.Linear(dim, dim)

    def queries(self, states, token_Q):
        return self.layer(states.vector_Nd[token_Q])[:, None]

    def learn(self, states, learning):
        return learning.routed(self.queries(states, learning.token_Q))

def queries(config):
    return 1

def load(config, dim, context):
    return Last(dim)
"""


def test_one_of_ones_own_with_a_single_query(small_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "run.toml").write_text("[baseline]\nname = 'mine.py'\n")
    config = load_config("run.toml")
    assert config.baseline.name == f"{tmp_path}/mine.py"
    assert config.own_files() == [tmp_path / "mine.py"]
    own = parse({**SETTINGS, "baseline": {"name": config.baseline.name}})
    tiny.train(own, small_data, tmp_path / "run")
    with load_run(tmp_path / "run") as loaded:
        assert loaded.heads == ["all"]
    (tmp_path / "mine.py").write_text(OWN.replace("Linear", "Bilinear"))
    with pytest.raises(UserError, match=r"mine\.py' has changed"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"priors": {"tree": ["temporal:2"]}}, "has no prior heads: give priors.tree=[]"),
        (
            {"baseline": {"name": "mind", "interests": 0}},
            "baseline.interests = 0 must be in [1, 1024]",
        ),
        ({"baseline": {"options": {"beta": 1.0}}}, "'beta' has no effect without baseline.name"),
        (
            {"baseline": {"name": "mind", "interest": 3}},
            "'baseline.interest': did you mean 'baseline.interests'?",
        ),
    ],
)
def test_mistakes(changes, says):
    with pytest.raises(UserError) as error:
        parse({**SETTINGS, **changes})
    assert says in str(error.value)
