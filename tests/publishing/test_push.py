"""A pushed run answers as the run does, without the users of its data set, and its folder runs no code."""

import importlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import tiny
from distributed.ranks import run_on_ranks
from safetensors.torch import load_file, save_file

from torchrec_priors import Event, Levers, Request, Run, UserContext, load_run, train
from torchrec_priors.apps import command
from torchrec_priors.apps import evaluate as evaluate_app
from torchrec_priors.apps import push as push_app
from torchrec_priors.apps import recommend as recommend_app
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.publishing.publish import publish
from torchrec_priors.publishing.push.push import push

pytest.importorskip("huggingface_hub", reason="pip install 'torchrec-priors[hf]'")

REPOSITORY = Path(__file__).parents[2]
SETTINGS = tiny.settings(
    model={"context": 20},
    encoder={"time_bias": True, "events": True, "item_features": ["release_date"]},
    priors={"tree": ["genre", "gender", "rating"], "composition": "additive"},
    negatives={"per_set": 10},
    table={"init_std": 1.0},
    embedding={"unseen": "dropped", "min_frequency": 3},
    training={"batch": 8, "steps": 2},
    evaluation={"batch": 8, "fusion": "mean"},
)
REQUESTS = [
    Request(UserContext(history=[5, 50, 7]), k=20),
    Request(UserContext(history=[Event(8, 891_000_000_000, "4 stars"), Event(9, 891_000_001_000)])),
    Request(UserContext(history=list(range(30, 60))), levers=Levers(boost={"Comedy": 3.0})),
    Request(UserContext(history=[5], groups={"gender": "F"})),
    Request(UserContext(user="nobody")),
    Request(UserContext(history=[], groups={"gender": "M"}), deny=[1, 2]),
]


def answers_of(run, data=None):
    with load_run(run, data) as loaded:
        answers = loaded.answer(REQUESTS)
        return loaded.heads, [(answer.source, answer.items) for answer in answers]


def refused(app, *arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.run(app, [str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def run(trained):
    return trained(parse(SETTINGS))


@pytest.fixture(scope="module")
def evaluated(run):
    with Run(run) as opened:
        return opened.evaluate("test", progress=False)


@pytest.fixture(scope="module")
def pushed(run, evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pushed") / "movies"
    push(run, folder, license="mit")
    return folder


def test_answers_are_those_of_the_run(run, pushed):
    """To the last bit: of histories, levers, groups, and of users of whom nothing is known."""
    heads, answers = answers_of(run)
    assert {source for source, _ in answers} == {"model", "popularity"}
    assert len(heads) > 10
    assert answers_of(pushed) == (heads, answers)


def test_it_evaluates_with_the_data_set_only(evaluated, pushed, small_data, capsys):
    again = Run(pushed, small_data).evaluate("test", progress=False)
    for name, value in evaluated.items():
        if name != "seconds":
            assert again[name] == value, name
    said = refused(evaluate_app.evaluate, "--run", pushed, "--split", "test", capsys=capsys)
    assert "without its users" in said
    with (
        load_run(pushed) as loaded,
        pytest.raises(UserError, match=r"give a history, or the whole data set \(--data\)"),
    ):
        loaded.recommend(user=30, strict=True)
    with load_run(pushed, small_data) as loaded:
        assert loaded.recommend(user=30, strict=True).source == "model"


def test_the_folder_has_nothing_of_users_and_of_this_machine(pushed, run, small_data):
    files = [file for file in pushed.rglob("*") if file.is_file() and "eval" not in file.parts]
    names = {file.relative_to(pushed).as_posix() for file in files}
    assert names == {
        "README.md", "config.toml", "data.json", "model.safetensors", "paths.json", "pushed.json",
        "seen.parquet", "serving/popularity.safetensors", "data/manifest.json", "data/items.parquet",
        "data/priors/genre.parquet", "data/priors/rating.parquet",
        "data/priors/rating.eligible.parquet",
    }  # fmt: skip
    for name in names:
        content = (pushed / name).read_bytes()
        for path in (run, small_data, pushed.parent):
            assert os.fsencode(path) not in content, name
    slim = PreparedData(pushed / "data")
    assert slim.users == 0
    assert not len(slim.user_texts())
    assert slim.manifest.prepared_sha256 == PreparedData(small_data).manifest.prepared_sha256


def test_the_card_says_what_the_run_records(pushed, run, evaluated, tmp_path, capsys):
    from huggingface_hub import ModelCard

    card = ModelCard.load(pushed / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "torchrec-priors"
    results = {
        (result.dataset_split, result.metric_type): result for result in card.data.eval_results
    }
    assert results["test", "ndcg@10"].metric_value == evaluated["ndcg@10"]
    assert {split for split, _ in results} == {"test"}
    assert "- `gender`: M, F" in card.text
    assert "Nobody has said" not in card.text

    with pytest.raises(SystemExit) as ended:
        command.run(push_app.push, ["--run", str(run), "--to", str(tmp_path / "unlicensed")])
    assert ended.value.code == 0
    assert "--license NAME adds one" in capsys.readouterr().out
    card = ModelCard.load(tmp_path / "unlicensed" / "README.md")
    assert card.data.license is None
    assert "Nobody has said under which license" in card.text


def test_weights_are_those_of_the_checkpoint(pushed, run):
    weights = load_file(pushed / "model.safetensors")
    with load_run(run) as loaded:
        state = loaded.model.encoder.state_dict()
    assert state
    for name, value in state.items():
        assert weights[f"encoder.{name}"].equal(value)


@pytest.mark.slow
def test_two_ranks_load_it(pushed, run, tmp_path):
    run_on_ranks(2, _write_answers, pushed, tmp_path / "answers.json")
    _, answers = answers_of(run)
    assert json.loads((tmp_path / "answers.json").read_text()) == _as_json(answers)


def _write_answers(pushed, file):
    _, answers = answers_of(pushed)
    file.write_text(json.dumps(_as_json(answers)))


def _as_json(answers):
    return [[source, [[item.item_id, item.score] for item in items]] for source, items in answers]


def test_what_may_run_code_or_was_changed_is_refused(pushed, tmp_path, capsys):
    copy = shutil.copytree(pushed, tmp_path / "copy")
    (copy / "data" / "extra.pkl").write_bytes(b"x")
    arguments = ("--run", copy, "--history", "5,50")
    said = refused(recommend_app.recommend, *arguments, capsys=capsys)
    assert "extra.pkl' may be a pickle" in said
    (copy / "data" / "extra.pkl").unlink()

    weights = load_file(copy / "model.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name] = weights[name] + 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    said = refused(recommend_app.recommend, *arguments, capsys=capsys)
    assert "model.safetensors does not match its checksum" in said

    (copy / "paths.json").write_text("{}")
    assert "paths.json' has 2 bytes instead of" in refused(
        recommend_app.recommend, *arguments, capsys=capsys
    )


@pytest.mark.slow
def test_what_the_document_shows_works(run, evaluated, small_data, tmp_path, monkeypatch, capsys):
    """docs/sharing.md: its commands, except those that upload, and its program."""
    monkeypatch.chdir(tmp_path)
    for name, target in (("runs/heads", run), ("prepared/ml-100k", small_data)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(target)
    text = (REPOSITORY / "docs/sharing.md").read_text(encoding="utf8")
    commands = re.findall(r"^torchrec-priors (\w+) (.*)$", text, re.MULTILINE)
    shown = [(app, line.replace("172,181", "7")) for app, line in commands if "hf://" not in line]
    assert [app for app, _ in shown] == ["evaluate", "push", "recommend", "evaluate"]
    for app, line in shown:
        module = importlib.import_module(f"torchrec_priors.apps.{app}")
        with pytest.raises(SystemExit) as ended:
            command.run(getattr(module, app), shlex.split(line))
        assert ended.value.code == 0, capsys.readouterr().err
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    capsys.readouterr()
    exec(compile(program.replace("172, 181", "7"), "docs/sharing.md", "exec"), {})
    assert f"{evaluated['ndcg@10']}" in capsys.readouterr().out


def test_mistakes(pushed, run, small_data, trained, tmp_path, capsys, monkeypatch):
    app = push_app.push
    said = refused(app, "--run", run, "--to", pushed, capsys=capsys)
    assert "exists and is not empty" in said
    said = refused(app, "--run", pushed, "--to", tmp_path / "again", capsys=capsys)
    assert "holds a pushed run already" in said
    said = refused(app, "--run", run, "--to", "hf://no-slash", capsys=capsys)
    assert "write hf://org/name" in said
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    said = refused(app, "--run", run, "--to", "hf://org/name", capsys=capsys)
    assert "hf auth login" in said
    with pytest.raises(UserError, match="only read"):
        tiny.train(parse(SETTINGS), small_data, pushed)
    with pytest.raises(UserError, match="without its users, whom train needs"):
        train(parse(SETTINGS), pushed / "data", tmp_path / "untrained", progress=False)
    with pytest.raises(UserError, match="cannot be published"):
        publish(pushed, tmp_path / "models")
    with pytest.raises(UserError, match="holds a pushed run"):
        tiny.train(parse(SETTINGS), small_data, tmp_path / "from", init_from=pushed)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = refused(app, "--run", run, "--to", tmp_path / "no-client", capsys=capsys)
    assert "torchrec-priors[hf]" in said
    assert not list(tmp_path.glob("*no-client*"))
