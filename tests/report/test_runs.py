"""Which runs there are, under which names, and what cannot be shown."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import MODELS, ONE_HEAD, evaluate, train

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.report.comparison import costs
from torchrec_priors.report.runs import find, with_defaults
from torchrec_priors.report.sections import sections
from torchrec_priors.training.run.folder import RunFolder


def test_every_evaluation_is_a_row_and_seeds_are_one(section):
    assert {row.label for row in section.rows} == {*MODELS, "genre averaged"}
    assert all(row.seeds == [0, 1] for row in section.rows)
    assert section.reference.label == "one-head"
    [averaged] = [row for row in section.rows if row.label == "genre averaged"]
    assert averaged.variant.fusion == "mean"
    assert averaged.heads == 19
    assert averaged.step_seconds == pytest.approx(0.5)


def test_a_run_a_folder_of_runs_and_both_are_the_same_rows(made_up_runs):
    one = made_up_runs / "genre-seed0"
    assert len(find([one]).results) == 2
    assert len(find([made_up_runs]).results) == len(
        find([made_up_runs, one, made_up_runs.parent]).results
    )


def test_an_experiments_rows_have_its_cells_names_in_its_order(small_data, tmp_path):
    rows = []
    for number, cell in enumerate(("Zebra x LT/ST_1", "Ape")):
        run = train(
            tmp_path / "runs" / f"{number}-seed0", small_data, f"model.horizon={number + 1}"
        )
        metrics = json.loads((evaluate(run) / "metrics.json").read_text())
        sha = metrics["config_sha256"]
        rows.append({"run": run.path.name, "split": "test", "config_sha256": sha, "cell": cell})
    (tmp_path / "test").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test" / "results.parquet")
    assert [result.label for result in find([tmp_path]).results] == ["Zebra x LT/ST_1", "Ape"]


def _tell(experiment, rows):
    """`results.parquet` of the test split; `rows` are cells with their runs and evaluations."""
    (experiment / "test").mkdir()
    told = [
        {"cell": cell, "run": run, "split": "test",
         "config_sha256": json.loads((place / "metrics.json").read_text())["config_sha256"]}
        for cell, run, place in rows
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(told), experiment / "test" / "results.parquet")


def _search(folder, data):
    """A search of cell "A b": the cell as it stands and two trials, one of which is linked into the best's folder."""
    searched, best = folder / "x", folder / "x-best"
    for name, change in {
        "A-b-seed0": "model.dim=8", "A-b-0123abcd-seed0": "model.dim=16", "A-b-89abcdef-seed0": "model.dim=32",
    }.items():  # fmt: skip
        evaluate(train(searched / "runs" / name, data, change), "validation")
    (searched / "search").mkdir()
    pq.write_table(
        pa.table({"cell": ["A b"] * 3, "trial": [0, 1, 2]}), searched / "search" / "results.parquet"
    )
    (best / "runs").mkdir(parents=True)
    (best / "runs" / "A-b-seed0").symlink_to(
        "../../x/runs/A-b-0123abcd-seed0", target_is_directory=True
    )
    linked = RunFolder(best / "runs" / "A-b-seed0")
    own = train(best / "runs" / "A-b-seed1", data, "model.dim=16", "seed=1")
    _tell(best, [("A b", run.path.name, evaluate(run)) for run in (linked, own)])
    return searched, best


@pytest.mark.parametrize("named", [["x", "x-best"], ["x-best", "x"], ["."]])
def test_a_run_that_a_search_handed_over_is_a_seed_of_the_final_row(small_data, tmp_path, named):
    _search(tmp_path, small_data)
    found = find([tmp_path / name for name in named])
    [test] = sections(found.results, None)
    assert [(row.label, row.seeds) for row in test.rows] == [("A b", [0, 1])]
    assert {result.run.path.parent for result in test.rows[0].results} == {
        tmp_path / "x-best" / "runs"
    }
    assert any(reason.startswith("validation of ") for reason in found.left_out), (
        "on one of the two seeds"
    )


def test_an_evaluation_that_the_experiment_did_not_make_has_its_cells_name(small_data, tmp_path):
    _, best = _search(tmp_path, small_data)
    evaluate(RunFolder(best / "runs" / "A-b-seed1"), "validation")
    found = find([best])
    assert {(result.label, result.split) for result in found.results} == {
        ("A b", "test"),
        ("A b", "validation"),
    }
    assert not any(reason.startswith("validation") for reason in found.left_out), "on both seeds"


def test_validation_of_a_few_of_the_tested_runs_is_no_section(small_data, tmp_path):
    for seed in (0, 1):
        run = train(tmp_path / "runs" / f"a-seed{seed}", small_data, *ONE_HEAD, f"seed={seed}")
        evaluate(run)
        if not seed:
            evaluate(run, "validation")
    found = find([tmp_path / "runs"])
    assert {result.split for result in found.results} == {"test"}
    [reason] = found.left_out
    assert reason.startswith("validation of “a”: made for only some of the tested seeds")
    alone = find([tmp_path / "runs" / "a-seed0"])
    assert {result.split for result in alone.results} == {"test", "validation"}
    assert not alone.left_out


def test_trials_of_a_search_are_counted_not_shown(small_data, tmp_path):
    searched, _ = _search(tmp_path, small_data)
    evaluate(RunFolder(searched / "runs" / "A-b-seed0"), "validation", name="A-b-00000000",
             overrides=["evaluation.fusion=mean"])  # fmt: skip
    train(searched / "runs" / "A-b-0123abcd-seed1", small_data, "model.dim=16", "seed=1")
    found = find([searched])
    assert [result.label for result in found.results] == ["A-b"]
    [reason] = found.left_out
    assert reason == f"3 trials of a search: {searched / 'search' / 'results.md'} has them"
    (searched / "search" / "results.parquet").unlink()
    assert len(find([searched]).results) == 5, "names alone make no trial"


def test_what_cannot_be_shown_is_said_with_the_command_that_helps(
    made_up_runs, small_data, tmp_path
):
    train(tmp_path / "new", small_data, *ONE_HEAD)
    found = find([made_up_runs, tmp_path])
    [reason] = found.left_out
    assert f"torchrec-priors evaluate --run {tmp_path / 'new'} --split test" in reason
    with pytest.raises(UserError, match=r"nothing can be shown.*has not been evaluated"):
        find([tmp_path])
    train(tmp_path / "fitted", small_data, *ONE_HEAD, "training.fit_all=true")
    reasons = find([made_up_runs, tmp_path]).left_out
    assert [
        reason
        for reason in reasons
        if "trained on all interactions" in reason and "evaluate --run" not in reason
    ]
    with pytest.raises(UserError, match="holds no run"):
        find([small_data])
    with pytest.raises(UserError, match="no folder"):
        find([tmp_path / "nowhere"])


def test_seconds_of_a_run_that_was_resumed_are_those_of_all_its_starts(small_data, tmp_path):
    run = train(tmp_path / "run", small_data, *ONE_HEAD)
    evaluate(run)
    assert find([tmp_path]).results[0].training_seconds == 10
    with run.metrics.open("a") as file:
        for step, seconds in ((18, 1.0), (19, 1.5), (20, 4.0), (20, 0.5)):
            file.write(json.dumps({"step": step, "loss": 1.0, "seconds": seconds}) + "\n")
    [section] = sections(find([tmp_path]).results, None)
    assert section.rows[0].results[0].training_seconds == 10 + 4 + 0.5
    assert "14.5 s" in costs(section).lines[0].cells


def test_splits_and_data_sets_are_sections_of_their_own(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    run = train(tmp_path / "runs" / "a", tmp_path / "data", *ONE_HEAD)
    evaluate(run, "validation")
    evaluate(run, "test")
    origin = read_json(run.path / "data.json", remedy="")
    other = shutil.copytree(run.path, tmp_path / "runs" / "b")
    write_json(other / "data.json", origin | {"content_sha256": "0" * 64})
    found = sections(find([tmp_path / "runs"]).results, None)
    assert [(one.split, one.first, one.data is None) for one in found] == [
        ("test", True, False), ("validation", False, False), ("test", True, True), ("validation", False, True),
    ]  # fmt: skip
    assert "other data" in found[2].missing


def test_lists_with_and_without_items_seen_before_are_never_compared(small_data, tmp_path):
    """Otherwise a model would seem better because it may recommend what its users had before."""
    run = train(tmp_path / "a", small_data, *ONE_HEAD, "evaluation.filter_seen=true")
    evaluate(run)
    evaluate(run, name="with-seen", overrides=["evaluation.filter_seen=false"], skill=0.9)
    evaluate(
        train(tmp_path / "b", small_data, *ONE_HEAD, "evaluation.filter_seen=false"), skill=0.5
    )
    found = sections(find([tmp_path]).results, None)
    titles = {section.seen: section for section in found}
    rows = {title: [row.label for row in section.rows] for title, section in titles.items()}
    assert rows == {"new items only": ["a"], "items seen before, too": ["a with-seen", "b"]}
    assert found[1].title.endswith(", items seen before, too")
    assert all(section.first for section in found), "each has curves and advice of its own"


def test_the_same_name_in_two_folders_is_two_rows_where_the_models_differ(small_data, tmp_path):
    for place, overrides in (("one", ONE_HEAD), ("two", ["model.horizon=2"])):
        evaluate(train(tmp_path / place / "model", small_data, *overrides))
    [section] = sections(find([tmp_path / "one", tmp_path / "two"]).results, None)
    assert [row.label for row in section.rows] == ["model (one)", "model (two)"]


def test_a_reference_row_that_does_not_exist(made_up_runs):
    results = find([made_up_runs]).results
    assert sections(results, "genre")[0].reference.label == "genre"
    with pytest.raises(UserError, match=r"--reference: no row is called 'gener'.*genre"):
        sections(results, "gener")


def test_a_setting_that_a_run_does_not_know_has_its_default():
    old = {"seed": 1, "model.dim": 8, "encoder.options.width": 3}
    config = with_defaults(old)
    assert config["embedding.content"] == ""
    assert config["model.dim"] == 8
    # Settings that all runs know are not changed, and a table of options is not emptied.
    assert old.items() <= config.items()
    assert "encoder.options" not in config
    assert with_defaults({})["encoder.options"] == {}
