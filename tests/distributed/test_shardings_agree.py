"""However tables are cut, and on however many ranks, training and evaluation are those of row-wise shards on one."""

import itertools
import json
from unittest.mock import patch

import numpy as np
import pytest
import tiny
import torch
from ranks import run_on_ranks
from run_files import logged
from test_ranks_agree import train

from torchrec_priors.bench.sharding import Lookups, time_lookups
from torchrec_priors.config import parse
from torchrec_priors.embedding.dedup import once
from torchrec_priors.embedding.distribute import together
from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import join
from torchrec_priors.settings.sharding import TYPES, ShardingConfig
from torchrec_priors.training.step import step as whole_step

pytestmark = pytest.mark.slow

TREE = ["temporal:2", "genre"]
FEATURES = {"encoder.item_features": ["release_date", "title"], "training.steps": 22}
SAME = {
    "table-wise": {"sharding.type": "table_wise"},
    "planner": {"sharding.type": "auto"},
    "each otherwise": {
        "sharding.type": "table_wise",
        "sharding.tables": {"feature_title": {"type": "row_wise"}},
    },
    "columns": {"sharding.type": "column_wise", "sharding.columns": 8},
    "narrow columns, ids once": {
        "sharding.type": "column_wise",
        "sharding.columns": 4,
        "sharding.dedup": True,
    },
    "some in columns": {"sharding.tables": {"feature_title": {"type": "column_wise"}}},
    "ids once": {"sharding.dedup": True},
    "fp16": {"sharding.communication": "fp16"},
}


def _train_all(folder, cases):
    with join():  # the ranks of all cases
        return {
            name: train(folder, TREE, "dot", {**FEATURES, **more}) for name, more in cases.items()
        }


@pytest.fixture(scope="module")
def alone(small_data):
    cases = {
        "row-wise": {},
        "columns": SAME["columns"],
        "one rank": SAME["table-wise"],
        "ids once": SAME["ids once"],
    }
    return run_on_ranks(1, _train_all, small_data, cases)[0]


@pytest.fixture(scope="module")
def two(small_data):
    return run_on_ranks(2, _train_all, small_data, SAME)


def _check(answer, expected, rtol=2e-6):
    losses, rows, dense, metrics = answer
    np.testing.assert_allclose(losses, expected[0], rtol=rtol)
    torch.testing.assert_close(rows, expected[1], atol=100 * rtol, rtol=0.0)
    assert dense.keys() == expected[2].keys()
    assert abs(metrics["recall@50"] - expected[3]["recall@50"]) < 0.01
    assert metrics["users"] == expected[3]["users"]


def test_one_rank_has_the_same_results_however_its_tables_are_cut(alone):
    _check(alone["one rank"], alone["row-wise"])
    _check(alone["ids once"], alone["row-wise"])
    _check(alone["columns"], alone["row-wise"])


def test_ids_are_asked_for_once_where_that_was_asked_for(small_data):
    for more, used in (({}, False), (SAME["ids once"], True)):
        with patch("torchrec_priors.embedding.lookup.once", side_effect=once) as asked, join():
            train(small_data, TREE, "dot", {"training.steps": 2, **more})
        assert asked.called == used


@pytest.mark.parametrize("case", [name for name in SAME if name != "fp16"])
def test_two_ranks_have_them_too(case, alone, two):
    for answers in two:
        _check(answers[case], alone["row-wise"])


def test_half_precision_is_used_between_ranks_and_is_close(alone, two):
    losses = two[0]["fp16"][0]
    np.testing.assert_allclose(losses, alone["row-wise"][0], rtol=1e-3)
    assert not np.allclose(losses, alone["row-wise"][0], rtol=2e-6)


RUN = tiny.settings(
    model={"dim": 16},
    encoder={"item_features": ["release_date"]},
    priors={"tree": TREE},
    training={"batch": 5, "steps": 6, "evaluate_every": 3},
)


def _go_on(folder, runs):
    """Half of a run row-wise and the rest table-wise; another in columns. What a failing planner says."""
    with join() as ranks, patch("torchrec_priors.embedding.own_rows._ROWS_AT_A_TIME", 30):
        with (
            patch("torchrec_priors.training.trainer.step", side_effect=_power_cut(after=4)),
            pytest.raises(RuntimeError),
        ):
            _train_run({}, folder, runs / "moved")
        _train_run({"type": "table_wise"}, folder, runs / "moved")
        _train_run({"type": "column_wise", "columns": 8}, folder, runs / "columns")
        with pytest.raises(UserError) as refused:
            together(lambda: 1 / 0)
        few = Lookups(items=500, dim=16, ids=300)
        timed = {kind: time_lookups(ShardingConfig(kind), few, 1) for kind in TYPES}
        return (
            str(refused.value),
            [_recall(runs / name, ranks) for name in ("moved", "columns")],
            timed,
        )


def _power_cut(after):
    calls = itertools.count(1)

    def step(*arguments, **named):
        if next(calls) > after:
            raise RuntimeError("power cut")
        return whole_step(*arguments, **named)

    return step


def _train_run(sharding, data, run):
    tiny.train(parse({**RUN, "sharding": sharding}), data, run)


def _recall(run, ranks):
    """Of the best checkpoint, read row-wise."""
    config, data, built = tiny.best(run, ranks)
    assert {table.type for table in built.plan.tables} == {"row_wise"}
    return tiny.metrics_of(built, config, data, ranks, "validation")["recall@50"]


def _lines(run, name):
    lines = logged(run)
    return [line[name] for line in lines if name in line]


def test_a_run_goes_on_under_another_sharding_and_is_read_row_wise_on_any_ranks(
    small_data, tmp_path
):
    whole = tmp_path / "whole"
    _train_run({}, small_data, whole)
    answers = run_on_ranks(2, _go_on, small_data, tmp_path)
    assert [said for said, *_ in answers] == ["no sharding plan was found: division by zero"] * 2
    moved, columns = tmp_path / "moved", tmp_path / "columns"
    np.testing.assert_allclose(_lines(moved, "loss"), _lines(whole, "loss"), rtol=2e-6)
    np.testing.assert_allclose(_lines(columns, "loss"), _lines(whole, "loss"), rtol=2e-6)
    plan = json.loads((moved / "sharding.json").read_text())
    assert [table["type"] for table in plan["tables"]] == ["table_wise"] * 2
    with join() as ranks:
        for run, recalls in zip(
            (moved, columns), zip(*(found for _, found, _ in answers), strict=True), strict=True
        ):
            best = json.loads((run / "checkpoints" / "best.json").read_text())["step"]
            expected = _lines(run, "validation/recall@50")[best // 3 - 1]
            assert [*recalls, _recall(run, ranks)] == pytest.approx([expected] * 3)
    found = {timed[kind].results[0] for *_, timed in answers for kind in TYPES}
    assert len(found) == 1, "other vectors were found"
    holder, other = (timed["table_wise"].sent_bytes for *_, timed in answers)
    vectors, ids = 150 * 16 * 4, 150 * 8
    assert 0 <= holder - vectors < 100, "vectors to the other rank, and a few lengths"
    assert 0 <= other - (ids + vectors) < 100, "ids, and gradients"
