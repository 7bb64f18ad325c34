"""What `bench` compares computes the same: ours, the dense reference, and ours without each optimisation."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from torchrec_priors.bench import (
    ablations,
    data_path,
    limits,
    retrieval,
    scaling,
    sharding,
    training,
)
from torchrec_priors.bench.drawn_log import context_lengths
from torchrec_priors.bench.markdown import table
from torchrec_priors.bench.rows import Row, Variant, as_json, measure, variants_of
from torchrec_priors.bench.shapes import SHAPES, Shape, check_shape
from torchrec_priors.bench.timed import Timed, in_a_process, on_ranks, repeat_beside
from torchrec_priors.bench.workload import make_workload
from torchrec_priors.errors import UserError
from torchrec_priors.ops import in_group_softmax_native
from torchrec_priors.ops.in_group_softmax_native import has_products
from torchrec_priors.ops.products import PIECES
from torchrec_priors.settings.sharding import ShardingConfig

SMALL = {
    "sequences": 5,
    "context": 12,
    "items": 300,
    "negatives": 44,
    "dim": 16,
    "layers": 2,
    "heads": 2,
}


def _small(name: str) -> Shape:
    return replace(SHAPES[name], **SMALL)


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch):
    monkeypatch.setattr(limits, "_SIDE", 64)


@pytest.fixture(scope="module", params=["merrec", "pixel8m", "ebnerd"])
def workload(request, tmp_path_factory):
    """A shape, its log, and what we take for it."""
    folder = tmp_path_factory.mktemp("bench") / request.param
    make_workload(_small(request.param), folder)
    return _small(request.param), folder, training.time_ours(_small(request.param), folder, 1, {})


@pytest.mark.slow
def test_the_reference_has_our_loss(workload):
    shape, folder, ours = workload
    reference = training.time_reference(shape, folder, 1, {})
    assert ours.results[0] == pytest.approx(reference.results[0], rel=1e-5)
    assert ours.results[1] != ours.results[0]
    assert ours.tokens == reference.tokens == context_lengths(shape).sum()
    assert ours.flops > 6 * 5 * 16**2 * 2 * ours.tokens
    assert min(ours.peak_bytes, *ours.rates, *ours.seconds) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ablations.NAMES)
def test_without_an_optimisation_the_loss_is_the_same(workload, name):
    shape, folder, ours = workload
    with ablations.without(name):
        plain = training.time_ours(shape, folder, 1, {})
    assert plain.results == pytest.approx(ours.results, rel=1e-4)


def test_a_step_has_the_loss_of_float32_with_all_kinds_of_products(tmp_path):
    shape = replace(_small("pixel8m"), dim=32)
    make_workload(shape, tmp_path / "data")

    losses = {}
    for kind in PIECES:
        changes = {"training.products": kind}
        losses[kind] = training.time_ours(shape, tmp_path / "data", 3, changes).results

    assert losses["bf16x3"] == pytest.approx(losses["fp32"], rel=2e-6)
    assert losses["bf16x2"] == pytest.approx(losses["fp32"], rel=2e-5)
    assert losses["bf16x1"] == pytest.approx(losses["fp32"], rel=1e-3)
    if has_products("bf16x1", 32):
        assert losses["bf16x1"] != losses["fp32"]


def test_retrieval_finds_what_all_scores_at_once_give(tmp_path):
    shape = replace(SHAPES["retrieval"], sequences=20, items=900, top=30, dim=16)
    make_workload(shape, tmp_path / "data")
    ours = retrieval.time_ours(shape, tmp_path / "data", 1, {})
    reference = retrieval.time_reference(shape, tmp_path / "data", 1, {})
    assert ours.results == reference.results
    assert ours.flops > 2 * 16 * 20 * 4 * 900


def test_contexts_are_about_half_of_the_longest():
    for shape in SHAPES.values():
        lengths = context_lengths(shape)
        assert lengths.max() == shape.context
        assert 0.4 * shape.context < lengths.mean() < 0.6 * shape.context


def test_rows_compare_with_the_reference_and_print(monkeypatch):
    monkeypatch.setitem(SHAPES, "merrec", _small("merrec"))
    shape, said = SHAPES["merrec"], []
    in_this_process = {"ours": training.time_ours, "reference": training.time_reference}
    monkeypatch.setattr(
        "torchrec_priors.bench.rows.run",
        lambda variant, shape, data, repeats, threads: in_this_process[variant.how](
            shape, data, repeats, {}
        ),
    )
    rows = measure(shape, variants_of(shape, ())[:2], 2, 1, said.append)
    ours, reference = rows
    assert isinstance(ours, Row)
    assert ours.speedup == pytest.approx(reference.median_s / ours.median_s)
    assert ours.memory_ratio == pytest.approx(ours.peak_bytes / reference.peak_bytes)
    assert ours.limit_share > 0
    assert "| ours |" in table(rows)
    fields = {
        "shape",
        "variant",
        "median_s",
        "tokens_per_s",
        "peak_bytes",
        "speedup",
        "memory_ratio",
        "limit_share",
    }
    assert fields | {"flops"} <= json.loads(as_json(rows, {}))["rows"][0].keys()
    assert said[0] == "merrec: ours"


def test_a_limit_share_has_the_rate_beside_each_repeat():
    timed = Timed([1.0, 2.0, 4.0], [0.5] * 4, 1, 1, flops=12.0, rates=[12.0, 10.0, 3.0])
    row = Row.of("merrec", "ours", timed)
    assert row.limit_share == pytest.approx(1.0)  # the median of 1, 0.6 and 1
    assert row.matmul_flops_per_s == 10.0


def test_rates_are_measured_before_and_after_each_repeat():
    rates = iter([1.0, 3.0, 5.0])
    seconds, results, beside = repeat_beside(float, 2, lambda: next(rates))
    assert len(seconds) == 2
    assert results == [0.0, 1.0, 2.0]
    assert beside == [2.0, 4.0]


@pytest.mark.slow
def test_prepare_and_reader_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(data_path, "_LOGS", (2_000, 3_000))
    monkeypatch.setattr(data_path, "_READ", 3_000)
    monkeypatch.setitem(data_path._SIZE_1, "model", {"dim": 8, "context": 40, "horizon": 8})
    prepared = data_path.prepare_rows(tmp_path / "prepare", [].append)
    assert [row.variant for row in prepared] == ["2,000 interactions", "3,000 interactions"]
    assert min(row.peak_bytes for row in prepared) > 10**8
    reading, training_row = data_path.reader_rows(tmp_path / "reader", 2, [].append)
    assert reading.speedup == pytest.approx(reading.tokens_per_s / training_row.tokens_per_s)
    assert table([reading, training_row]).count("\n") == 5


def test_lookups_find_the_same_however_the_table_is_cut(monkeypatch):
    """And a row says how long each part took."""
    few, named = sharding.Lookups(items=500, dim=16, ids=300), []

    def here(*arguments):
        name, _, (kind, _, repeats, *options), _ = arguments[-4:]
        named.append(name)
        return sharding.time_lookups(
            ShardingConfig(kind, dedup="--dedup" in options), few, int(repeats)
        )

    monkeypatch.setattr(sharding, "in_a_process", here)
    monkeypatch.setattr(sharding, "on_ranks", here)
    rows = sharding.sharding_rows(2, 2, [].append)
    assert len(named) == len(rows) == 3 * 2 + 2
    assert named[0] == "row_wise, 1 rank"
    assert named[-1] == "row_wise, fp16 between ranks, 2 ranks"
    assert len({row.result for row in rows}) == 1, "other vectors were found"
    assert all(0 < row.forward_s < row.median_s for row in rows)
    assert rows[0].speedup == 1.0
    assert "| forward | backward | sent by a rank | memory of the table |" in table(rows)


def test_a_shape_that_there_is_not():
    with pytest.raises(UserError, match="there is no shape 'merec': did you mean 'merrec'"):
        check_shape("merec")


def test_ebnerd_has_a_row_for_one_head_and_merrec_one_for_a_larger_catalogue():
    names = [each.name for each in variants_of(SHAPES["ebnerd"], ())]
    assert (names[:2], names[-1]) == (["ours", "reference"], "one head")
    assert variants_of(SHAPES["merrec"], ())[-1] == Variant(
        "twice the catalogue", items=2 * 1_255_665
    )


@pytest.mark.parametrize(("most", "kinds"), [(0, []), (1, ["bf16x1"]), (3, list(PIECES)[1:])])
def test_there_is_a_row_for_each_kind_of_products_that_the_machine_has(most, kinds, monkeypatch):
    machine = SimpleNamespace(most_pieces=lambda: most)
    monkeypatch.setattr(in_group_softmax_native, "load_native", lambda _: machine)
    assert [each.name for each in variants_of(SHAPES["ebnerd"], ())[2:-1]] == kinds
    assert not {each.name for each in variants_of(SHAPES["retrieval"], ())} & PIECES.keys()


@pytest.mark.slow
def test_two_ranks_have_the_tokens_of_both_and_the_loss_of_one(tmp_path):
    arguments = scaling._worker_arguments(
        replace(SHAPES["merrec"], items=500, sequences=4), tmp_path, 1
    )
    alone = in_a_process("1 rank", scaling._WORKER, arguments, 1)
    both = on_ranks(2, "2 ranks", scaling._WORKER, arguments, 1)
    assert both.tokens == alone.tokens
    assert both.results == pytest.approx(alone.results, rel=1e-5)
    assert len(both.seconds) == 1


@pytest.mark.slow
def test_what_fails_is_named():
    with pytest.raises(RuntimeError, match="a bad one: exit code 2"):
        in_a_process("a bad one", scaling._WORKER, ["merrec", "nobody"], 1)
