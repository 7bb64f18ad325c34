"""Batches whose ids are sent ahead of their steps make the very run that batches in the plain way make."""

import itertools
from dataclasses import replace
from unittest.mock import create_autospec, patch

import pytest
import tiny
from ranks import run_on_ranks
from run_files import logged
from torchrec.distributed.train_pipeline.runtime_forwards import PipelinedForward

from torchrec_priors.config import parse
from torchrec_priors.embedding.managed.rows import ManagedRows
from torchrec_priors.embedding.torchrec_plan import to_torchrec
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.pipeline import pipeline_of
from torchrec_priors.training.step import step as whole_step

RUN = tiny.settings(
    model={"dim": 16},
    priors={"tree": ["temporal:2", "genre"]},
    training={"batch": 6, "steps": 8, "evaluate_every": 3},
)
FEATURES = {"encoder": {"item_features": ["release_date", "title"]}}
CASES = {
    "features, in parts": {**FEATURES, "training": {"accumulate": 2, "prefetch": 0}},
    "ids once": {**FEATURES, "sharding": {"dedup": True}},
    "table-wise": {"sharding": {"type": "table_wise"}},
}


def _config(way, more):
    return parse(tiny.merged(tiny.merged(RUN, **more), training={"pipeline": way}))


def _run(way, more, data, run, stop_after=None):
    """What was logged."""
    calls = itertools.count(1)

    def step(*arguments, **named):
        if next(calls) == stop_after:
            raise RuntimeError("power cut")
        return whole_step(*arguments, **named)

    with patch("torchrec_priors.training.trainer.step", side_effect=step):
        tiny.train(_config(way, more), data, run)
    return [
        {name: value for name, value in line.items() if "seconds" not in name}
        for line in logged(run)
    ]


def _rows(run, ranks):
    """What the best checkpoint holds of the item table on this rank."""
    _, _, built = tiny.best(run, ranks)
    return built.own.fetch().rows.tolist()


def _both_ways(folder, runs):
    answers = {}
    with join() as ranks:
        for name, more in CASES.items():
            found = []
            for way in ("plain", "sparse-dist"):
                ahead = PipelinedForward.__call__
                with patch.object(
                    PipelinedForward, "__call__", autospec=True, side_effect=ahead
                ) as taken:
                    lines = _run(way, more, folder, runs / name / way)
                found.append((lines, _rows(runs / name / way, ranks), taken.call_count))
            answers[name] = found
        broken = runs / "features, in parts" / "broken"
        with pytest.raises(RuntimeError, match="power cut"):
            _run("sparse-dist", CASES["features, in parts"], folder, broken, stop_after=6)
        answers["goes on"] = _run("sparse-dist", CASES["features, in parts"], folder, broken)
        answers["read"] = _rows(broken, ranks)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_run_is_the_same_bit_by_bit_and_goes_on_where_it_was(small_data, tmp_path, world):
    for answers in run_on_ranks(world, _both_ways, small_data, tmp_path):
        for name, more in CASES.items():
            (plain_lines, plain_rows, never), (lines, rows, taken) = answers[name]
            assert sum("loss" in line for line in lines) == 8
            assert sum("validation/ndcg@10" in line for line in lines) == 3
            assert lines == plain_lines, name
            assert rows == plain_rows, name
            tables = 1 + ("encoder" in more)
            assert (never, taken) == (0, 8 * tables), (
                "every lookup of a step, and none of an evaluation, was ahead"
            )
        whole, *_ = answers["features, in parts"][0]
        assert answers["goes on"] == whole
        assert answers["read"] == answers["features, in parts"][0][1]


def test_an_error_of_the_reader_ends_the_run_and_leaves_the_tables_as_they_were(small_data):
    data = PreparedData(small_data)

    def failing():
        yield from ()
        raise OSError("unreadable")

    with join() as ranks:
        built = build_model(_config("sparse-dist", {}), data, ranks)
        pipeline, forward = pipeline_of(built, "sparse-dist"), built.model.table.forward
        with pytest.raises(OSError, match="unreadable"):
            list(pipeline.run(failing(), 3))
        assert built.model.table.forward == forward


def test_what_cannot_be_is_refused(small_data):
    data = PreparedData(small_data)
    with join() as ranks:
        built = build_model(_config("plain", {}), data, ranks)
        with pytest.raises(UserError, match="fills a GPU's cache of rows, which no table has"):
            pipeline_of(built, "prefetch")
        built.model.item_rows = create_autospec(ManagedRows, instance=True)
        with pytest.raises(
            UserError, match="a step's ids depend on what the steps before admitted"
        ):
            pipeline_of(built, "sparse-dist")


def test_cached_tables_hold_the_rows_of_a_batch_that_is_prefetched(small_data):
    with join() as ranks:
        built = build_model(_config("plain", {}), PreparedData(small_data), ranks)
    cached = [
        replace(table, kernel="fused_uvm_caching", cache_load_factor=0.25)
        for table in built.plan.tables
    ]
    plan, tables = replace(built.plan, tables=cached), [table.table for table in cached]
    assert plan.cached
    for ahead in (True, None):
        made = to_torchrec(plan, tables, "cuda", 1, prefetch=bool(ahead))
        parameters = [sharding for module in made.plan.values() for sharding in module.values()]
        assert [
            (one.cache_params.load_factor, one.cache_params.prefetch_pipeline) for one in parameters
        ] == [(0.25, ahead)]
