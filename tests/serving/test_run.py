"""A run loaded in a plain Python process answers as the app does, any number of times."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from e2e.command_line import REPOSITORY

from torchrec_priors import Levers, Recommendation, load_run
from torchrec_priors.apps import command, recommend
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.bulk import lines_of_users
from torchrec_priors.serving.catalogue import texts
from torchrec_priors.training import build


@pytest.fixture(scope="module")
def loaded(run):
    with load_run(run) as loaded:
        yield loaded


def _app(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        command.run(recommend.recommend, [str(argument) for argument in arguments])
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "call"),
    [
        (["--user", "9"], {"user": 9}),
        (["--history", "5, 50,7", "-k", "4"], {"history": [5, "50", 7], "k": 4}),
        (["--user", "9", "--allow", "ids"], {"user": "9", "allow": range(20, 80)}),
        (
            ["--user", "9", "--deny", "ids"],
            {"user": 9, "deny": [str(item) for item in range(20, 80)]},
        ),
    ],
    ids=["user", "history", "allow", "deny"],
)
def test_the_app_and_python_give_the_same(
    run, loaded, capsys, tmp_path, monkeypatch, options, call
):
    (tmp_path / "ids").write_text("".join(f"{item}\n" for item in range(20, 80)))
    monkeypatch.chdir(tmp_path)
    code, out, _ = _app(capsys, "--run", run, *options, "--json")
    assert code == 0
    best = loaded.recommend(**call)
    assert json.loads(out)["items"] == [dataclasses.asdict(item) for item in best]
    assert len(best) == call.get("k", 10)
    for item in best:
        assert item.score == pytest.approx(max(item.head_scores.values()), abs=1e-5)
        assert item.head_scores[item.head] == pytest.approx(item.score, abs=1e-5)
        if "allow" in call or "deny" in call:
            assert (20 <= item.item_id < 80) == ("allow" in call)


def test_many_histories_are_answered_in_their_order(loaded):
    histories = [[5, 50, 7], [8], *([item] for item in range(1, 30))]
    for history, best in zip(histories, loaded.recommend_many(histories, k=3), strict=True):
        alone = loaded.recommend(history, k=3)
        assert [item.item_id for item in best] == [item.item_id for item in alone]
        assert best[0].score == pytest.approx(alone[0].score, abs=1e-5)
    assert loaded.recommend_many([]) == []
    assert loaded.recommend([5], allow=[5]) == [], "a seen item is the only one allowed"


def test_runs_may_be_open_together_and_again_after_closing(run):
    first = load_run(run)
    with load_run(str(run)) as second:
        first.close()
        first.close()
        with pytest.raises(RuntimeError, match="closed"):
            first.recommend(user=9)
        best = second.recommend(user=9, k=1)
    with load_run(run) as again:
        assert again.recommend(user=9, k=1) == best
    assert isinstance(best[0], Recommendation)


def test_nothing_is_initialised_that_a_checkpoint_overwrites(run, monkeypatch):
    monkeypatch.setattr(
        build, "initialise_rows", lambda *_: pytest.fail("the table got first values")
    )
    with load_run(run) as loaded:
        assert loaded.recommend(user=9)
        built = build.build_model(loaded.config, loaded.data, loaded.ranks, for_training=False)
        assert not built.parallel.fused_optimizer.state_dict()["state"][
            "table.embeddings.item.weight"
        ]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"strict": True}, "history is empty"),
        ({"user": 4711, "strict": True}, "no user '4711'"),
        ({"history": [], "strict": True}, "history is empty"),
        ({"history": [5, 4711], "strict": True}, "no item '4711'"),
        ({"history": "12"}, "'12' is one id"),
        ({"user": 9, "only": ["Comedy"], "levers": Levers()}, "either levers or only"),
        ({"user": 9, "k": 151}, "k = 151 must be from 1 to the 150 items"),
        ({"user": 9, "k": 0}, "k = 0"),
        ({"user": 9, "allow": ["none", "such"]}, "allow list names no item"),
        ({"user": 9, "deny": range(200)}, "deny list leaves no item"),
        ({"user": 9, "allow": [1, 2], "deny": [2, 1]}, "deny list leaves no item"),
        ({"user": 9, "deny": "12"}, "'12' is one id"),
    ],
)
def test_mistakes_in_python(loaded, call, says):
    with pytest.raises(UserError) as caught:
        loaded.recommend(**call)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--user", "9", "--users", "ids", "--out", "out"],
            ["give either --users FILE", "--user ID"],
        ),
        (["--users", "ids"], ["--users needs --out"]),
        (["--user", "9", "--out", "out"], ["--out needs --users"]),
        (["--users", "ids", "--out", "out", "--json"], ["--json cannot be combined with --users"]),
        (["--users", "ids", "--out", "none/out"], ["--out: there is no folder 'none'"]),
        (["--users", "ids", "--out", "."], ["--out", "is a folder"]),
        (["--users", "ids", "--out", "taken/out"], ["--out: 'taken' is not a folder"]),
        (["--users", "ids", "--out", "ids"], ["--out: 'ids' is also the file given to --users"]),
        (["--users", "none", "--out", "out"], ["--users: there is no file 'none'"]),
        (["--users", "empty", "--out", "out"], ["--users: 'empty' holds no ids"]),
        (["--users", "ids", "--out", "out"], ["no user '4711' (2 of 3 users are unknown)"]),
        (["--users", "twice", "--out", "out"], ["user '9' is listed twice"]),
        (["--user", "9", "--deny", "empty"], ["--deny: 'empty' holds no ids"]),
        (["--user", "9", "--allow", "none"], ["--allow: there is no file 'none'"]),
        (["--user", "9", "--allow", "ids", "-k", "151"], ["k = 151"]),
    ],
)
def test_mistakes_on_the_command_line(run, capsys, tmp_path, monkeypatch, options, says):
    (tmp_path / "ids").write_text("9\n4711\n4712\n")
    (tmp_path / "twice").write_text("9\n10\n9\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "taken").write_text("")
    monkeypatch.chdir(tmp_path)
    code, _, error = _app(capsys, "--run", run, *options)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for words in says:
        assert words in error
    assert not (tmp_path / "out").exists()


def test_lines_of_users(small_data):
    data = PreparedData(small_data)
    everyone = data.user_texts().to_pylist()
    lines = lines_of_users(data, texts([everyone[4], everyone[0]]))
    assert {user: line for user, line in enumerate(lines.tolist()) if line >= 0} == {4: 0, 0: 1}


def test_process_groups_overlap_and_a_callers_own_is_left_alone():
    was = torch.distributed.is_initialized()
    first, second = join(), join()
    first.__enter__()
    inside = second.__enter__()
    first.__exit__(None, None, None)
    assert inside.total(torch.tensor(3)) == 3
    second.__exit__(None, None, None)
    assert torch.distributed.is_initialized() == was


def _python(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_the_example_runs(run, loaded):
    done = _python("tools/recommend_in_python.py", run, "5", "50")
    assert f"1. {loaded.recommend([5, 50], k=1)[0].title}" in done.stdout
    assert not done.stderr


def test_importing_the_package_does_not_import_torch():
    _python(
        "-c",
        "import sys, torchrec_priors, torchrec_priors.apps.prepare; assert 'torch' not in sys.modules",
    )
