"""An evaluation makes what it needs by itself, and gives trees of events a second list."""

from threading import get_ident

import pytest
import tiny
import torch

from torchrec_priors.metrics.reach import Reach
from torchrec_priors.ops.single_thread import is_own
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.training.build import build_model


@pytest.fixture(scope="module")
def evaluated(small_data):
    """The metrics of an untrained model whose heads are those of the ratings, and their reach."""
    data = PreparedData(small_data)
    config = tiny.config(priors={"tree": ["rating"]})
    with join() as ranks:
        built = build_model(config, data, ranks)
        metrics = tiny.metrics_of(built, config, data, ranks)
        reach = Reach.of(built.model, config.evaluation)
        again = tiny.metrics_of(built, config, data, ranks, reach=reach)
    return metrics, again, reach


def test_a_tree_of_events_is_also_evaluated_with_the_events_given(evaluated):
    metrics, _, _ = evaluated
    given = {name for name in metrics if name.startswith("event_given/")}
    assert {"event_given/recall@10", "event_given/ndcg@10"} <= given
    assert all(0 <= metrics[name] <= 1 for name in given if "entropy" not in name)
    # The heads of other events are left out, so the lists are not the same.
    assert metrics["event_given/ndcg@200"] != metrics["ndcg@200"]


def test_without_a_given_reach_that_of_the_settings_is_counted(evaluated):
    metrics, again, reach = evaluated
    assert metrics == again
    assert {name: metrics[name] for name in reach.results()} == reach.results()
    assert metrics["reachable/targets"] > 0


@pytest.mark.skipif(not is_own(), reason="PyTorch has no OpenMP or MKL here")
@pytest.mark.parametrize(
    "settings",
    [
        {"priors": {"tree": ["rating"]}},
        {
            "priors": {"tree": ["temporal:2", "genre"], "composition": "additive"},
            "loss": {"gate": 1.0},
            "evaluation": {"batch": 16, "calibrated": True, "fusion": "hierarchical"},
        },
    ],
    ids=["events", "calibrated"],
)
def test_threads_change_no_bit_of_the_metrics_nor_the_order_of_batches(
    small_data, settings, monkeypatch
):
    """Batches are divided among the threads, and each is computed with one."""
    data = PreparedData(small_data)
    config = tiny.config(**settings)
    metrics = []
    batches = []
    callers = set()
    find = Finder.find

    def _found(self, *arguments, **more):
        callers.add(get_ident())
        return find(self, *arguments, **more)

    monkeypatch.setattr(Finder, "find", _found)
    before = torch.get_num_threads()
    with join() as ranks:
        built = build_model(config, data, ranks)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            order = []

            def _note(batch, *_found, order=order):
                order.extend(batch.users.tolist())

            metrics.append(tiny.metrics_of(built, config, data, ranks, on_batch=_note))
            assert torch.get_num_threads() == threads
            batches.append(order)
    torch.set_num_threads(before)
    assert metrics[0] == metrics[1] == metrics[2]
    assert len(batches[0]) > 2 * config.evaluation.batch
    assert batches[0] == batches[1] == batches[2]
    assert len(callers) > 1
