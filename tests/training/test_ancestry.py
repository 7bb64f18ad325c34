"""Whoever starts from a run that was trained on targets does not evaluate on them unseen."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from torchrec_priors.apps import evaluate
from torchrec_priors.data.leaks import leaks
from torchrec_priors.data.trained_part import TrainedPart
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.ranks.share import Share
from torchrec_priors.report.runs import find
from torchrec_priors.serving.export import export
from torchrec_priors.serving.run import load_run
from torchrec_priors.training.run.ancestry import read_ancestry
from torchrec_priors.training.run.folder import RunFolder


def _config(pretrained="", **training):
    return tiny.config(
        model={"horizon": 2},
        negatives={"per_set": 8},
        table={"pretrained": str(pretrained)},
        training={"steps": 1, "evaluate_every": 1, **training},
        evaluation={"batch": 32},
    )


def _train(data, run, init_from=None, **changes):
    tiny.train(_config(**changes), data, run, init_from=init_from)
    return run


def _evaluated(run, split="test", leaked="refuse"):
    evaluate.evaluate(run, evaluate.Split(split), leaked=evaluate.Leaked(leaked))
    return json.loads((run / "eval" / split / "metrics.json").read_text())


def _leaks(run, data, split):
    with join() as ranks:
        return read_ancestry(RunFolder(run)).leaks(PreparedData(data), split, ranks)


def _raw_in_order(raw, data, place, cut=0, change=None):
    """The raw files whose log is that of the data set, without the last interactions of everyone."""
    shutil.copytree(raw, place)
    prepared = PreparedData(data)
    film = prepared.catalogue(["item_id"])["item_id"].to_pylist()
    lines = []
    for group in prepared.row_groups:
        users, ids = prepared.read_users(group), prepared.user_ids(group).to_pylist()
        for number, user in enumerate(ids):
            history = users.history(number)
            films = [film[item] for item in history[: len(history) - cut]]
            if user == change:
                films[0], films[1] = films[1], films[0]
            lines += [f"{user}\t{each}\t3\t{880_000_000 + time}" for time, each in enumerate(films)]
    (place / "u.data").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ancestry")


@pytest.fixture(scope="module")
def fitted(small_data, folder):
    return _train(small_data, folder / "fitted", fit_all=True)


@pytest.fixture(scope="module")
def child(small_data, folder, fitted):
    return _train(small_data, folder / "child", init_from=fitted)


def test_targets_that_an_ancestor_was_trained_on_are_not_evaluated_on_unseen(
    child, fitted, tmp_path
):
    says = r"test split is not held out, as this run comes from '.*fitted' \(--fit-all\): it was trained on targets of"
    with pytest.raises(UserError, match=says):
        _evaluated(child)
    assert not (child / "eval").exists()
    with pytest.raises(UserError, match="nobody is left to evaluate on the test split"):
        _evaluated(child, leaked="leave-out")
    run = shutil.copytree(child, tmp_path / "run")
    metrics = _evaluated(run, leaked="keep")
    assert metrics["leaked/users"] == metrics["users"] > 50
    assert metrics["leaked/targets_share"] == 1
    assert metrics["leaked/left_out_users"] == 0
    [shown] = find([run]).results
    assert "trained on targets" in shown.label


def test_training_says_that_its_validation_is_not_held_out(
    small_data, fitted, child, tmp_path, capsys
):
    _train(small_data, tmp_path / "run", init_from=fitted)
    said = capsys.readouterr().err
    assert "warning: validation is not held out from" in said
    assert "fitted' (--fit-all)" in said
    summary = json.loads((child / "summary.json").read_text())
    assert summary["validation/leaked/targets_share"] == 1
    lines = (child / "metrics.jsonl").read_text()
    assert '"validation/leaked/users": ' in lines


def test_a_run_that_was_trained_on_no_target_taints_nobody(small_data, trained, tmp_path, capsys):
    parent = shutil.copytree(trained(_config()), tmp_path / "parent")
    run = _train(small_data, tmp_path / "run", init_from=parent)
    metrics = _evaluated(run)
    assert metrics["leaked/users"] == metrics["leaked/untold_users"] == 0
    assert "not held out" not in capsys.readouterr().err
    assert "leaked/users" not in _evaluated(parent)


def test_what_is_far_back_counts_as_much(small_data, child, tmp_path):
    grandchild = _train(small_data, tmp_path / "run", init_from=child)
    names = [
        ancestor.run.rsplit("/", 1)[-1] for ancestor in RunFolder(grandchild).origin().ancestors
    ]
    assert names == ["child", "fitted"]
    with pytest.raises(UserError, match=r"comes from '.*fitted' \(--fit-all\)"):
        _evaluated(grandchild)
    with pytest.raises(UserError, match=r"comes from '.*fitted' \(--fit-all\)"):
        _evaluated(grandchild, "validation")


def test_of_another_horizon_just_the_targets_within_its_training_part_count(
    small_raw, small_data, trained, tmp_path
):
    # The other horizon trains on all but 4; targets are the last 8, and the 8 before.
    prepare(Settings("movielens", small_raw, 2), tmp_path / "data")
    other = _train(tmp_path / "data", tmp_path / "other")
    run = _train(small_data, tmp_path / "run", init_from=other)
    assert _leaks(run, small_data, "test").to_metrics()["leaked/targets_share"] == 0.5
    assert _leaks(run, small_data, "validation").to_metrics()["leaked/targets_share"] == 1
    back = _train(tmp_path / "data", tmp_path / "back", init_from=trained(_config()))
    assert _leaks(back, tmp_path / "data", "validation").to_metrics()["leaked/users"] == 0


@pytest.fixture(scope="module")
def grown(small_raw, small_data, folder):
    """(a data set, the same with 8 interactions more of everyone)."""
    for name, cut in (("then", 8), ("now", 0)):
        raw = _raw_in_order(small_raw, small_data, folder / f"raw-{name}", cut)
        prepare(Settings("movielens", raw, 8), folder / name)
    return folder / "then", folder / "now"


def test_what_came_after_a_refit_is_held_out(grown, tmp_path):
    then, now = grown
    refit = _train(then, tmp_path / "refit", fit_all=True)
    run = _train(now, tmp_path / "run", init_from=refit)
    metrics = _evaluated(run)
    assert metrics["leaked/users"] == metrics["leaked/untold_users"] == 0
    found = _leaks(run, now, "validation")
    assert found.leaked_users == PreparedData(then).users < found.users
    kept = _evaluated(run, "validation", "leave-out")
    assert kept["users"] == found.users - found.leaked_users
    assert kept["leaked/left_out_users"] == found.leaked_users


def test_another_past_of_a_user_cannot_be_told(small_raw, small_data, tmp_path):
    user = PreparedData(small_data).user_ids(PreparedData(small_data).row_groups[0])[0].as_py()
    raw = _raw_in_order(small_raw, small_data, tmp_path / "raw", change=user)
    prepare(Settings("movielens", raw, 8), tmp_path / "data")
    run = _train(
        small_data,
        tmp_path / "run",
        init_from=_train(tmp_path / "data", tmp_path / "other", fit_all=True),
    )
    found = _leaks(run, small_data, "test")
    assert found.untold_users == 1
    assert found.leaked_users == found.users - 1


def test_parts_of_ranks_add_up(child, small_data):
    data, part = PreparedData(small_data), read_ancestry(RunFolder(child)).part
    before = part.only(part.before_N)
    whole = leaks(before, data, "test", share=Share(), total=lambda values: values)
    parts = [
        leaks(before, data, "test", share=Share(rank, 3), total=lambda values: values)
        for rank in range(3)
    ]
    assert np.array_equal(whole.trained_U, sum(each.trained_U for each in parts))
    assert whole.leaked_users > 50


def test_parts_that_a_later_run_covers_are_not_kept(small_data, fitted, child, tmp_path):
    users = PreparedData(small_data).users
    assert len(read_ancestry(RunFolder(child)).part) == 2 * users
    refit = _train(small_data, tmp_path / "refit", init_from=child, fit_all=True)
    assert len(read_ancestry(RunFolder(refit)).part) == users
    assert len(TrainedPart.together([])) == 0


@pytest.fixture(scope="module")
def exported(fitted, folder):
    with load_run(fitted) as run:
        export(run, folder / "export")
    return folder / "export"


def test_exported_vectors_bring_their_run_with_them(small_data, exported, tmp_path):
    run = _train(small_data, tmp_path / "run", pretrained=exported / "items.parquet")
    with pytest.raises(UserError, match=r"comes from '.*fitted' \(--fit-all\)"):
        _evaluated(run)


def test_exported_vectors_elsewhere_tell_of_their_run_alone(small_data, exported, tmp_path, caplog):
    shutil.copyfile(exported / "items.parquet", tmp_path / "vectors.parquet")
    run = _train(small_data, tmp_path / "run", pretrained=tmp_path / "vectors.parquet")
    metrics = _evaluated(run)
    assert metrics["leaked/untold_users"] == metrics["users"]
    assert "users it is unknown, as" in caplog.text


def test_vectors_of_other_programs_say_nothing(small_data, exported, tmp_path):
    table = pq.read_table(exported / "items.parquet", columns=["item_id", "vector"])
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "vectors.parquet")
    run = _train(small_data, tmp_path / "run", pretrained=tmp_path / "vectors.parquet")
    assert RunFolder(run).origin().ancestors == []
    assert "leaked/users" not in _evaluated(run)


def test_what_an_earlier_version_left_is_told_by_its_data(small_data, fitted, tmp_path):
    old = _as_of_an_earlier_version(shutil.copytree(fitted, tmp_path / "old"))
    run = _train(small_data, tmp_path / "run", init_from=old)
    assert _leaks(run, small_data, "test").to_metrics()["leaked/targets_share"] == 1


def test_a_run_of_an_earlier_version_that_was_started_from_another_cannot_be_told(
    small_data, child, tmp_path
):
    old = _as_of_an_earlier_version(shutil.copytree(child, tmp_path / "old"))
    assert _evaluated(old)["leaked/untold_users"] > 50
    run = _train(small_data, tmp_path / "run", init_from=old)
    assert _leaks(run, small_data, "test").untold_users > 50


def _as_of_an_earlier_version(run):
    origin = json.loads((run / "data.json").read_text())
    known = ("path", "content_sha256", "priors", "groups", "events", "init_from", "own_files")
    (run / "data.json").write_text(json.dumps({name: origin[name] for name in known}))
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text[: text.index("# Not to be edited")])
    (run / "trained.parquet").unlink()
    return run
