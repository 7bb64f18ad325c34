"""Ranks that hold no rows of a table take part: four ranks and five items, or four values of a feature, give the
results of one, in training, checkpoints, evaluation, recommendations and exports."""

from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from few_items import ITEMS, prepare_few_items
from ranks import run_on_ranks
from run_files import losses

from torchrec_priors.config import parse
from torchrec_priors.embedding.plan import even_blocks
from torchrec_priors.ranks.process import join
from torchrec_priors.serving.bulk import recommend_in_bulk
from torchrec_priors.serving.export import export
from torchrec_priors.serving.run import load_run
from torchrec_priors.training.step import step as whole_step

pytestmark = pytest.mark.slow

WORLD = 4
SETTINGS = tiny.settings(
    model={"context": 10, "horizon": 2},
    encoder={"dropout": 0.2, "item_features": ["colour"]},
    priors={"tree": ["temporal:2", "kind"]},
    loss={"gate": 1.0},
    negatives={"per_set": 8, "catalogue_share": 0.5, "popularity": 0.5, "logq": True},
    table={"init_std": 0.1},
    training={"batch": 7, "steps": 8, "evaluate_every": 8},
    evaluation={"filter_seen": False, "batch": 5, "tiles": "int8"},
)
CASES = {
    "rows": {},
    "ids once": {"sharding": {"dedup": True}, "training": {"pipeline": "sparse-dist"}},
    "columns": {"sharding": {"type": "column_wise", "columns": 4}},
    "tables": {"sharding": {"type": "table_wise"}},
    "shared": {"embedding": {"unseen": "shared", "min_frequency": 10}},
    "hashed": {"embedding": {"unseen": "hashed", "min_frequency": 10, "hashed_rows": 2}},
    "dropped": {"embedding": {"unseen": "dropped", "min_frequency": 10}},
    "managed": {
        "embedding": {"unseen": "managed", "rows": 16, "blocks": 4, "eviction_interval": 2}
    },
    "calibrated": {
        "evaluation": {
            "calibrated": True,
            "fusion": "hierarchical",
            "diversify": 0.3,
            "tiles": "fp32",
        },
        "priors": {"composition": "additive"},
    },
}
FIRST = ["rows", "columns", "hashed", "managed"]
OTHERS = [case for case in CASES if case not in FIRST]


def _config(case, training):
    return parse(tiny.merged(tiny.merged(SETTINGS, **CASES[case]), training=training))


def _train(case, data, run, stop_before=None, **more):
    """Losses of all steps."""

    def step(built, optimizers, batch, **named):
        if batch.step == stop_before:
            raise RuntimeError("power cut")
        return whole_step(built, optimizers, batch, **named)

    with patch("torchrec_priors.training.trainer.step", side_effect=step):
        tiny.train(_config(case, more), data, run)
    return losses(run)


def _read(run, ranks):
    """(metrics, whole table) of the best checkpoint."""
    config, data, built = tiny.best(run, ranks)
    metrics = tiny.metrics_of(built, config, data, ranks, by_group=())
    return metrics, tiny.whole_table(built, ranks)


def _train_all(folder, runs, cases):
    with join() as ranks:
        return {
            case: (_train(case, folder, runs / case), *_read(runs / case, ranks)) for case in cases
        }


def _read_all(runs, cases):
    with join() as ranks:
        return {case: _read(runs / case, ranks) for case in cases}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = prepare_few_items(tmp_path_factory.mktemp("few"))
    assert even_blocks(ITEMS, WORLD)[-1] == (ITEMS, ITEMS), "the last rank has no items"
    return folder


@pytest.fixture(
    scope="module", params=[FIRST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=str
)
def both(request, data, tmp_path_factory):
    """What one rank and four compute, and where their runs are; what four read of one's, and one of four's."""
    one, four, cases = (*(tmp_path_factory.mktemp(name) for name in ("one", "four")), request.param)
    (of_one,) = run_on_ranks(1, _train_all, data, one, cases)
    of_four = run_on_ranks(WORLD, _train_all, data, four, cases)
    read_by_four = run_on_ranks(WORLD, _read_all, one, cases)[0]
    (read_by_one,) = run_on_ranks(1, _read_all, four, cases)
    return one, of_one, of_four, read_by_four, read_by_one


def test_training_is_that_of_one_rank(both):
    _, of_one, of_four, *_ = both
    for case, (expected, metrics, rows) in of_one.items():
        assert len(set(expected)) == len(expected) == SETTINGS["training"]["steps"], (
            "training does nothing"
        )
        for answers in of_four:
            other_losses, other_metrics, other_rows = answers[case]
            np.testing.assert_allclose(other_losses, expected, rtol=1e-5, err_msg=case)
            torch.testing.assert_close(other_rows, rows, atol=2e-5, rtol=1e-3)
            assert other_metrics["users"] == metrics["users"]


def test_a_checkpoint_is_the_same_on_any_number_of_ranks(both):
    _, of_one, of_four, read_by_four, read_by_one = both
    for written, read in ((of_one, read_by_four), (of_four[0], read_by_one)):
        for case, (_, metrics, rows) in written.items():
            assert torch.equal(read[case][1], rows), case
            assert read[case][0]["ndcg@5"] == pytest.approx(metrics["ndcg@5"], abs=1e-6), case


def _cut_short(folder, run):
    written = {"checkpoint_seconds": 0, "checkpoint_async": False}
    with join(), pytest.raises(RuntimeError, match="power cut"):
        _train("rows", folder, run, stop_before=5, **written)


def _go_on(folder, run):
    return _train("rows", folder, run)


@pytest.mark.parametrize(("before", "after"), [(WORLD, 1), (1, WORLD)])
def test_a_run_goes_on_on_other_ranks(before, after, data, tmp_path):
    (whole,) = run_on_ranks(1, _go_on, data, tmp_path / "whole")
    run_on_ranks(before, _cut_short, data, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step-00000005").is_dir()
    resumed = run_on_ranks(after, _go_on, data, tmp_path / "run")[0]
    np.testing.assert_allclose(resumed, whole, rtol=1e-5)


def _serve(run, place):
    """What is recommended to all users and to one history, and the run's export; nothing where another rank has it."""
    with load_run(run) as loaded:
        recommend_in_bulk(loaded, np.arange(loaded.data.users), place / "all.parquet", k=3)
        one = [
            (found.item_id, round(found.score, 4))
            for found in loaded.recommend(["i1", "i4"], k=ITEMS)
        ]
        export(loaded, place / "export")
    return one


def test_what_is_served_and_exported_is_that_of_one_rank(both, tmp_path):
    case, found = next(iter(both[1])), []
    for world in (1, WORLD):
        place = tmp_path / str(world)
        place.mkdir()
        one = run_on_ranks(world, _serve, both[0] / case, place)[0]
        found.append(
            (
                one,
                *(pq.read_table(place / name) for name in ("all.parquet", "export/items.parquet")),
            )
        )
    (one, users, items), (other, other_users, other_items) = found
    assert one == other
    assert len(one) == ITEMS
    assert users.equals(other_users)
    assert items.equals(other_items)
