"""The commands of the page make the configuration of the run again, whatever the shell."""

import shlex
import subprocess
import sys

import pytest
import tiny
from made_up import evaluate, train

from torchrec_priors.apps import evaluate as evaluate_app
from torchrec_priors.config import load_config, parse
from torchrec_priors.report.runs import find
from torchrec_priors.report.training_command import overrides_of, training_commands

ODD = [
    'priors.tree=["temporal:2", "genre"]',
    "model.size=paper-1",
    "model.dim=96",
    "loss.gamma=0.00001",
    "evaluation.filter_seen=true",
    "seed=3",
]


def _words(command):
    return shlex.split(command)


def test_the_commands_give_the_settings_that_are_not_the_defaults(small_data, tmp_path):
    run = train(tmp_path / "a b's $HOME", small_data, *ODD)
    evaluate(run, name="even", overrides=["evaluation.fusion=mean"], heads=("x",))
    [result] = find([tmp_path]).results
    training, evaluation = map(" ".join, training_commands(result))
    program, app, *arguments = _words(training)
    assert [program, app] == ["torchrec-priors", "train"]
    options = dict(zip(arguments[:4:2], arguments[1:4:2], strict=True))
    assert options["--data"] == str(small_data.absolute())
    assert options["--run"].startswith("runs/")
    assert " " not in options["--run"]
    assert load_config(None, arguments[4:]) == run.config()
    assert "model.dim=96" in arguments
    assert "training.batch=" not in training, "defaults are not repeated"
    assert _words(evaluation) == [
        "torchrec-priors", "evaluate", "--run", options["--run"], "--split", "test", "--name",
        "even", "evaluation.fusion=mean",
    ]  # fmt: skip


def test_an_evaluation_without_a_name_has_its_settings_too(small_data, tmp_path):
    run = train(tmp_path / "a", small_data)
    evaluate(run, overrides=["evaluation.filter_seen=false"], heads=("x",))
    [result] = find([tmp_path]).results
    _, evaluation = training_commands(result)
    assert evaluation[-3:] == ["--split", "test", "evaluation.filter_seen=false"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"size": "paper-3"}, "encoder": {"dropout": 0.0}},
        {"baseline": {"name": "/my own.py", "options": {"beta": 0.5, "words": 'a "b" \\ é\n'}}},
        {"sharding": {"tables": {"item": {"type": "row_wise"}}}},
    ],
)
def test_overrides_are_read_back_as_the_same_configuration(changes):
    config = parse(changes)
    overrides = overrides_of(config)
    assert overrides is not None
    assert load_config(None, shlex.split(shlex.join(overrides))) == config
    assert bool(overrides) == bool(changes)


def test_some_configurations_cannot_be_expressed_by_overrides():
    config = parse({"baseline": {"name": "/own.py", "options": {"a.b": 1}}})
    assert overrides_of(config) is None


@pytest.mark.slow
def test_the_commands_train_the_same_model(small_data, tmp_path):
    """Pasted into a shell, they give the same metrics, to the last bit."""
    config = tiny.config(priors={"tree": ["temporal:2", "genre"]})
    tiny.train(config, small_data, tmp_path / "first")
    evaluate_app.evaluate(tmp_path / "first", evaluate_app.Split.test)
    [result] = find([tmp_path / "first"]).results
    script = "\n".join(map(" ".join, training_commands(result))).replace(
        "torchrec-priors ", f"{shlex.quote(sys.executable)} -m torchrec_priors.apps "
    )
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    [again] = find([tmp_path / "runs"]).results
    different = {name for name, value in result.metrics.items() if again.metrics[name] != value}
    assert different <= {"seconds", "run_id"}
