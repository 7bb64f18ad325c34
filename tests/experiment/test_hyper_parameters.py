"""A search, with runs that only pretend: the same however it was interrupted and run, fair, and never on test."""

import json
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pretended import Pretended

from torchrec_priors.experiments.file import read_experiment
from torchrec_priors.experiments.matrix import cells_of, flat
from torchrec_priors.experiments.plan import plan
from torchrec_priors.experiments.runner import Runner
from torchrec_priors.experiments.search import search as searching
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.run.folder import RunFolder

TEXT = """
config = "base.toml"
seeds = [0, 1]
split = "test"
reference = "one"
at_once = 2
[budget]
training.steps = 7
[cells.one]
[cells."one, again"]
evaluation.filter_seen = false
[cells.two]
model.horizon = 2
[search]
trials = 6
batch = 3
[search.space]
encoder.dropout = [0.1, 0.2, 0.3, 0.4]
training.learning_rate = {low = 1e-4, high = 1e-2, log = true}
[search.cells.two.space]
model.horizon = [2, 4]
""".replace("one, again", "one again")


class Scored(Pretended):
    """Whose evaluations are the better the nearer dropout is to .3 and the rate to 1e-3."""

    def run(self, app, options, overrides, log):
        error = super().run(app, options, overrides, log)
        if app == "evaluate" and error is None:
            folder = RunFolder(options["run"])
            config, _ = folder.open()
            file = folder.evaluation(options["split"], options.get("name")) / "metrics.json"
            score = (
                0.5 - abs(config.encoder.dropout - 0.3) - abs(config.training.learning_rate - 1e-3)
            )
            file.write_text(json.dumps(json.loads(file.read_text()) | {"ndcg@10": score}))
        return error


@pytest.fixture
def small(tmp_path, small_data):
    """small(out, only) -> (text, exit code, calls) of a search."""
    (tmp_path / "base.toml").write_text("[encoder]\ndropout = 0.1\n")
    file = tmp_path / "mine.toml"
    file.write_text(TEXT)

    def run(out="out", only=(), at_once=2, broken=None, text=TEXT, **options):
        file.write_text(text)
        launcher = Scored()
        launcher.broken = broken or {}
        runner = Runner(
            tmp_path / out, tmp_path / "base.toml", PreparedData(small_data), "validation", launcher
        )
        base = tomllib.loads((tmp_path / "base.toml").read_text())
        experiment = read_experiment(file)
        text, lacking = searching.search(
            experiment,
            base,
            runner,
            only=only,
            at_once=at_once,
            data="d",
            command="command",
            **options,
        )
        return text, int(bool(lacking)), launcher.asked()

    return run


def _rows(folder):
    return pq.read_table(folder / "search/results.parquet").to_pylist()


def test_every_cell_has_its_trials_and_the_best_is_chosen(small, tmp_path):
    text, code, calls = small()
    assert code == 0
    rows = _rows(tmp_path / "out")
    assert [(row["cell"], row["trial"]) for row in rows] == [
        (cell, number) for cell in ("one", "one again", "two") for number in range(6)
    ]
    for cell in ("one", "one again", "two"):
        own, *_ = mine = [row for row in rows if row["cell"] == cell]
        (chosen,) = [row for row in mine if row["chosen"]]
        assert own["values"] == "{}"
        assert own["score"] == pytest.approx(0.3)
        assert chosen["score"] == max(row["score"] for row in mine) > own["score"]
        assert all(row["seconds"] == pytest.approx(1.6) and row["error"] is None for row in mine)
    assert not list((tmp_path / "out").rglob("eval/test*"))
    trained = [call[1] for call in calls if call[0] == "train"]
    assert len(trained) == 6 + 5 + 6, (
        "the two that differ in evaluation share a training as they stand"
    )
    assert "| two | 6 | 0.3000 | " in text


def test_the_best_is_an_experiment_whose_runs_are_trained_already(small, tmp_path):
    text, _, _ = small()
    best = read_experiment(tmp_path / "out/search/best.toml")
    assert Path(best.config).resolve() == (tmp_path / "base.toml").resolve()
    assert (best.seeds, best.split, best.reference, best.at_once, best.data) == (
        [0, 1],
        "test",
        "one",
        2,
        "d",
    )
    chosen = {
        row["cell"]: json.loads(row["values"]) for row in _rows(tmp_path / "out") if row["chosen"]
    }
    cells = {cell.name: cell.changes for cell in cells_of(best)}
    assert cells == {
        "one": chosen["one"],
        "one again": {"evaluation.filter_seen": False, **chosen["one again"]},
        "two": {"model.horizon": 2, **chosen["two"]},
    }
    runs = plan(
        cells_of(best), best.seeds, tomllib.loads(Path(best.config).read_text()), flat(best.budget)
    )
    assert all(run.config.training.steps == 7 for run in runs)
    launcher = Pretended()
    out = tmp_path / "out-best"
    Runner(
        out, Path(best.config), PreparedData(tmp_path_data(runs, out)), "test", launcher
    ).run_all(runs, 1)
    assert {call[1] for call in launcher.asked() if call[0] == "train"} == {
        run.name for run in runs if run.config.seed == 1
    }
    assert f"3 of {len(runs)} runs of the best cells are trained" in text


def tmp_path_data(runs, out):
    """The data that a run that is there was trained on."""
    return next(
        RunFolder(out / "runs" / run.name).open()[1].folder
        for run in runs
        if (out / "runs" / run.name).exists()
    )


@pytest.mark.slow
def test_the_same_whatever_ran_at_once_and_wherever_it_was_interrupted(small, tmp_path):
    small("one", at_once=1)
    small("many", at_once=8)
    expected = _rows(tmp_path / "one")
    assert _rows(tmp_path / "many") == expected
    with pytest.raises(KeyboardInterrupt):
        small(
            "cut",
            at_once=1,
            broken={sorted((tmp_path / "one/runs").iterdir())[-3].name: KeyboardInterrupt()},
        )
    done = {file.parent.name for file in (tmp_path / "cut/runs").glob("*/summary.json")}
    assert 0 < len(done) < 17
    _, _, calls = small("cut")
    assert not done & {name for app, name, _ in calls if app == "train"}, "nothing is trained twice"
    assert _rows(tmp_path / "cut") == expected
    assert small("cut")[2] == []


@pytest.mark.slow
def test_more_trials_go_on_from_those_that_are_there(small, tmp_path):
    small()
    before = [row | {"chosen": False} for row in _rows(tmp_path / "out")]
    _, _, calls = small(text=TEXT.replace("trials = 6", "trials = 8"))
    after = [row | {"chosen": False} for row in _rows(tmp_path / "out")]
    assert [row for row in after if row["trial"] < 6] == before
    assert sum(call[0] == "train" for call in calls) == 3 * 2


@pytest.mark.slow
def test_a_trial_that_fails_is_told_and_does_not_stop_the_rest(small, tmp_path):
    small("whole")
    name = next(run.name for run in sorted((tmp_path / "whole/runs").iterdir()) if run.name.startswith("two-") and
                run.name != "two-seed0")  # fmt: skip
    text, code, _ = small(broken={name: "train gave 1: no memory"})
    failed = [row for row in _rows(tmp_path / "out") if row["error"]]
    assert {row["error"] for row in failed} <= {"train gave 1: no memory"}
    assert all(row["score"] is None and not row["chosen"] for row in failed)
    assert code == 0
    text, code, _ = small("none", broken={"train": "train gave 1: no disk"})
    assert code == 1
    assert "- two, trial 5: train gave 1: no disk" in text
    best = read_experiment(tmp_path / "none/search/best.toml")
    assert {cell.name: cell.changes for cell in cells_of(best)}["two"] == {"model.horizon": 2}


def test_a_cell_like_another_takes_its_values_and_shares_its_training(small, tmp_path):
    text, code, calls = small(text=TEXT + '[search.cells."one again"]\nlike = "one"\n')
    assert code == 0
    assert {row["cell"] for row in _rows(tmp_path / "out")} == {"one", "two"}
    assert sum(call[0] == "train" for call in calls) == 2 * 6
    chosen = {
        row["cell"]: json.loads(row["values"]) for row in _rows(tmp_path / "out") if row["chosen"]
    }
    best = cells_of(read_experiment(tmp_path / "out/search/best.toml"))
    assert {cell.name: cell.changes for cell in best}["one again"] == {
        "evaluation.filter_seen": False,
        **chosen["one"],
    }
    assert "| one again | those of one | " in text


@pytest.mark.slow
def test_one_cell_alone_leaves_the_others_as_far_as_they_are(small, tmp_path):
    _, code, calls = small(only=["two"])
    assert code == 0
    assert {name.split("-")[0] for _, name, _ in calls} == {"two"}
    assert [row["error"] for row in _rows(tmp_path / "out") if row["cell"] == "one"] == [
        "not run"
    ] * 3
    small()
    rows = _rows(tmp_path / "out")
    small("whole")
    assert rows == _rows(tmp_path / "whole")


def test_without_keeping_the_best_weights_alone_are_left(small, tmp_path):
    small(keep_weights=False)
    chosen = sum(row["chosen"] for row in _rows(tmp_path / "out"))
    assert len(list((tmp_path / "out/runs").glob("*/checkpoints"))) == chosen == 3
    assert small(keep_weights=False)[2] == []
