"""A checkpoint of two ranks, with tables in rows, goes on on other numbers of ranks and with tables cut otherwise."""

import shutil

import numpy as np
import pytest
import tiny
import torch
from ranks import run_on_ranks
from run_files import losses

from torchrec_priors.config import parse
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.checkpoint.check import flaw
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.run.folder import RunFolder

ROW_WISE = {"type": "row_wise"}
COLUMN_WISE = {"type": "column_wise", "columns": 4}
TABLE_WISE = {"type": "table_wise"}
DIM, SAVED = 16, 10
SETTINGS = tiny.settings(
    model={"dim": DIM},
    encoder={"dropout": 0.2},
    priors={"tree": ["temporal:2", "genre"]},
    training={"steps": 30, "evaluate_every": 30, "checkpoint_seconds": 0, "keep_last": 9},
)


def _config(sharding):
    return parse({**SETTINGS, "sharding": sharding})


def train(data, run, sharding):
    """Losses of all steps."""
    tiny.train(_config(sharding), data, run)
    return losses(run)


def loaded(data, run, sharding):
    """(whole table, its row-wise state, one for each part of its columns, dense parameters and their states) of the
    newest checkpoint."""
    config, folder, prepared = _config(sharding), RunFolder(run), PreparedData(data)
    with join() as ranks:
        built = build_model(config, prepared, ranks, trained=folder.trained_on(config, prepared))
        set_loss_weights(built, config)
        optimizers = Optimizers(built, config)
        progress = Checkpoints(folder.checkpoints, ranks).resume(built, optimizers)
        assert progress.step == SAVED
        whole = torch.zeros(prepared.items)
        for states in optimizers.fused.state_dict()[
            "state"
        ].values():  # none where another rank has the table
            (momentum,) = states.values()
            whole, local = torch.zeros(momentum.shape), momentum.to_local()
            for shard, offset in zip(local.local_shards(), local.local_offsets(), strict=False):
                whole[offset[0] : offset[0] + len(shard)] = shard
        adam = {
            f"{name}.{key}": value.clone()
            for name, of_one in optimizers.dense.state_dict()["state"].items()
            for key, value in of_one.items()
            if isinstance(value, torch.Tensor)
        }
        states_of_columns = ranks.total(whole).view(-1, prepared.items)
        dense = tiny.dense_parameters(built)
        return tiny.whole_table(built, ranks), states_of_columns, dense | adam


def _copy_of(run, place):
    """The run as it was when the checkpoint of step 10 was the newest."""
    shutil.copytree(run, place)
    for checkpoint in (place / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > SAVED:
            shutil.rmtree(checkpoint)
    (place / "checkpoints" / "best.json").unlink()
    return place


def _goes_on(small_data, saved, place, world, sharding):
    """Losses of all steps of the run that goes on from the checkpoint; what is loaded is what was saved."""
    run, expected, (table, state, dense) = saved
    found = run_on_ranks(world, loaded, small_data, _copy_of(run, place), sharding)[0]
    assert torch.equal(found[0], table)
    for part in found[1]:
        torch.testing.assert_close(part.expand_as(state), state, rtol=2e-6, atol=0)
    assert found[2].keys() == dense.keys()
    for name, value in found[2].items():
        assert torch.equal(value, dense[name]), name
    again = run_on_ranks(world, train, small_data, place, sharding)[0]
    assert again[:SAVED] == list(expected[:SAVED])
    assert again[SAVED] == pytest.approx(expected[SAVED], rel=1e-5), (
        "the first step from the same values"
    )
    return np.array(again)


def _saved(small_data, run, world, sharding=ROW_WISE):
    """(run, its losses, what its checkpoint of step 10 holds)"""
    found = run_on_ranks(world, train, small_data, run, sharding)[0]
    then = _copy_of(run, run.with_name("then"))
    return run, np.array(found), run_on_ranks(world, loaded, small_data, then, sharding)[0]


@pytest.fixture(scope="module")
def of_two(small_data, tmp_path_factory):
    return _saved(small_data, tmp_path_factory.mktemp("saved") / "run", 2)


@pytest.mark.slow
def test_a_table_in_columns_goes_on_from_one_in_rows_and_back(small_data, tmp_path):
    saved = _saved(small_data, tmp_path / "saved" / "run", 1)
    again = _goes_on(small_data, saved, tmp_path / "again", 1, COLUMN_WISE)
    np.testing.assert_allclose(again, saved[1], rtol=1e-5)
    cut = _saved(small_data, tmp_path / "cut" / "run", 1, COLUMN_WISE)
    back = _goes_on(small_data, cut, tmp_path / "back", 1, ROW_WISE)
    np.testing.assert_allclose(back, saved[1], rtol=1e-5)


CUTS = [(1, ROW_WISE), (3, ROW_WISE), (4, ROW_WISE), (2, TABLE_WISE)]
CUTS += [
    (world, COLUMN_WISE) for world in (1, 2, 3, 4)
]  # 4, 2, 2 or 1, and 1 of the four parts on a rank
CUTS += [(2, {"type": "column_wise", "columns": columns}) for columns in (8, DIM)]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "sharding"), CUTS, ids=str)
def test_the_next_losses_are_those_of_the_run_itself(of_two, small_data, tmp_path, world, sharding):
    again = _goes_on(small_data, of_two, tmp_path / "run", world, sharding)
    np.testing.assert_allclose(again, of_two[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "sharding"), [(1, ROW_WISE), (2, ROW_WISE), (3, COLUMN_WISE)], ids=str
)
def test_a_run_in_columns_goes_on_likewise(of_two, small_data, tmp_path, world, sharding):
    cut = _saved(small_data, tmp_path / "cut" / "run", 2, COLUMN_WISE)
    np.testing.assert_allclose(cut[1], of_two[1], rtol=1e-5)
    again = _goes_on(small_data, cut, tmp_path / "run", world, sharding)
    np.testing.assert_allclose(again, of_two[1], rtol=1e-5)


def _flaws(run):
    """What each rank says of checkpoints whose files differ in what is wrong with them, and what it then loads."""
    config, folder = _config(ROW_WISE), RunFolder(run)
    with join() as ranks:
        found = [flaw(place, ranks) for place in sorted(folder.checkpoints.glob("step-*[0-9]"))]
        built = build_model(config, folder.open()[1], ranks)
        set_loss_weights(built, config)
        checkpoints = Checkpoints(folder.checkpoints, ranks, config.training)
        progress = checkpoints.resume(built, Optimizers(built, config))
        return found, progress.step


@pytest.mark.slow
def test_ranks_agree_on_what_is_whole(small_data, tmp_path):
    """Whichever rank reads the file that is damaged: one rank's alone, both and none."""
    run = tmp_path / "run"
    run_on_ranks(2, train, small_data, run, ROW_WISE)
    places = sorted((run / "checkpoints").glob("step-*[0-9]"))[-3:]
    for place, names in zip(
        places[1:], (["rank-0-0.distcp"], ["rank-1-0.distcp", ".metadata"]), strict=True
    ):
        for name in names:
            with (place / name).open("r+b") as file:
                file.truncate(5)
    (one, step), (other, other_step) = run_on_ranks(2, _flaws, run)
    assert one == other
    assert [wrong is None for wrong in one[-3:]] == [True, False, False]
    assert step == other_step == int(places[0].name[5:])
    assert sorted(path.name for path in (run / "checkpoints").glob("*.damaged")) == [
        f"{place.name}.damaged" for place in places[1:]
    ]
