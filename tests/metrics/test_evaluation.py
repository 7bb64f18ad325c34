"""An evaluation makes what it needs by itself, and gives trees of events a second list."""

import pytest
import tiny

from torchrec_priors.metrics.reach import Reach
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
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
