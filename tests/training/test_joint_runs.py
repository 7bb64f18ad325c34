"""Runs with a joint softmax: what they answer, and settings that do not go with it."""

import numpy as np
import pytest
import tiny
import torch

from torchrec_priors.data.histories import history_batches
from torchrec_priors.errors import UserError
from torchrec_priors.planning.queries import queries_in
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.serving.run import load_run
from torchrec_priors.training.build import build_model
from torchrec_priors.training.model_parts import tree_of

COMMUNITIES = """
import numpy as np
from torchrec_priors.priors.item import ItemPrior

def load(argument, data, horizon):
    rows = np.arange(data.items)
    return ItemPrior("community", ["c1", "c2", "c3"], rows, rows * 7 % 3, data.items)
"""


@pytest.fixture(scope="module")
def communities(tmp_path_factory):
    file = tmp_path_factory.mktemp("priors") / "communities.py"
    file.write_text(COMMUNITIES)
    return str(file)


def _config(tree, **sections):
    joint = {
        "priors": {"tree": tree, "init_std": 0.3},
        "negatives": {"total": 60, "logq": True, "seen": False},
        "loss": {"softmax": "joint", "gate": 1.0},
        "table": {"init_std": 0.5},
    }
    return tiny.config(**tiny.merged(joint, **sections))


@pytest.mark.parametrize("users", [[], ["gender"]], ids=["items", "users and items"])
def test_calibrated_scores_are_the_logarithms_of_probabilities_of_the_whole_catalogue(
    users, communities, small_data, tmp_path
):
    config = _config(
        [*users, communities],
        negatives={"seen": True},
        evaluation={"calibrated": True, "filter_seen": False},
    )
    tiny.train(config, small_data, tmp_path / "run")
    data = PreparedData(small_data)
    with join() as ranks, torch.no_grad():
        config, data, built = tiny.best(tmp_path / "run", ranks)
        model = built.model.eval()
        finder = Finder.of(model, built.fetch_index(), config.evaluation, data, ranks.device)
        batch = next(
            iter(history_batches(data, "validation", context=finder.context, batch=8, columns=()))
        )
        queries = finder.queries(batch, finder.ask(batch))
        found = finder.find(batch, queries, data.items)

        sums = found.score_Bk.double().exp().sum(1)
        np.testing.assert_allclose(sums.numpy(), 1, rtol=1e-4)

        # The score of an item is that of the path of its own group, with the logit of the group.
        asked = finder.ask(batch)
        assert float(asked.log_group_BK.abs().max()) > 0, "the logits have been learned"
        path_k = found.path_Bk[0]
        group_K = np.array([path.groups[-1] for path in model.tree.paths])
        assert np.array_equal(group_K[path_k.numpy()], found.row_Bk[0].numpy() * 7 % 3)


def test_a_run_recommends_and_its_levers_work(communities, small_data, tmp_path):
    tiny.train(_config([communities]), small_data, tmp_path / "run")
    with load_run(tmp_path / "run") as run:
        all_groups = run.recommend(user=1, k=10)
        only = run.recommend(user=1, k=5, only=["c2"])
    assert {found.head for found in only} == {"c2"}
    assert len({found.head for found in all_groups}) > 1


@pytest.mark.parametrize(
    ("tree", "sections", "message"),
    [
        (["genre"], {}, "items are in several groups of priors.tree"),
        (["temporal:2", "community"], {}, "is neither a prior of items nor one of users"),
        (
            ["gender", "community"],
            {"priors": {"composition": "additive"}},
            "use composition=hierarchical",
        ),
        (["community"], {"negatives": {"logq": False}}, "set negatives.logq=true"),
        (["community"], {"negatives": {"catalogue_share": 0.5}}, "set negatives.catalogue_share=0"),
        ([], {"baseline": {"name": "comirec"}}, "remove baseline.name"),
    ],
)
def test_settings_that_do_not_go_with_it_are_rejected(
    tree, sections, message, communities, small_data
):
    levels = [communities if level == "community" else level for level in tree]
    config = _config(levels, **sections)
    with join() as ranks, pytest.raises(UserError, match=message):
        build_model(config, PreparedData(small_data), ranks)


def test_a_configuration_without_it_has_the_checksum_of_before():
    settings = tiny.settings()
    assert "softmax" not in tiny.config().to_toml_for_checksums()
    assert "softmax" in _config([]).to_toml_for_checksums()
    assert settings == tiny.settings()


def test_the_planner_counts_the_queries_of_all_heads(communities, small_data):
    """Each token with a target needs the query of every head of its softmax."""
    data = PreparedData(small_data)
    counted = {}
    for softmax in ("joint", "in_group"):
        config = _config([communities], loss={"softmax": softmax})
        counted[softmax] = queries_in(config, data, tree_of(config, data, None))
    assert 2.9 < counted["joint"].queries <= 3
    assert counted["in_group"].queries < counted["joint"].queries
    assert counted["joint"].positives == counted["in_group"].positives
