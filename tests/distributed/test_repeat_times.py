"""The time bias of a repeat head is learned, and is the same on any number of ranks."""

import habits
import numpy as np
import pytest
import tiny
from ranks import run_on_ranks
from test_ranks_agree import train

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.serving.run import load_run
from torchrec_priors.synthetic.files import generate

OPTIONS = {
    "negatives.seen": False,
    "repeats.weight": 1.0,
    "repeats.time_bias": True,
    "evaluation.filter_seen": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A marketplace of 2,000 interactions, with times; users see some items again."""
    raw = tmp_path_factory.mktemp("market") / "raw"
    generate(raw, 2_000, 0)
    prepare(Settings("marketplace", raw, 4), raw.with_name("prepared"))
    return raw.with_name("prepared")


@pytest.mark.slow
def test_ranks_give_the_same_and_the_bias_is_learned(data):
    losses, _, dense, _ = run_on_ranks(1, train, data, [], "dot", OPTIONS)[0]
    (name,) = [name for name in dense if name.endswith("repeat_head.since")]
    assert np.any(np.asarray(dense[name]) != 0)
    for other_losses, _, other_dense, _ in run_on_ranks(2, train, data, [], "dot", OPTIONS):
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        np.testing.assert_allclose(other_dense[name], dense[name], atol=1e-3, rtol=1e-2)


def test_times_of_stored_users_count_and_a_history_without_times_is_answered(data, tmp_path):
    config = tiny.config(
        model={"horizon": 2},
        negatives={"per_set": 64, "seen": False},
        repeats={"weight": 1.0, "time_bias": True},
        training={"steps": 30, "evaluate_every": 30, "learning_rate": 0.05},
        evaluation={"filter_seen": False},
    )
    tiny.train(config, data, tmp_path / "run")
    prepared = PreparedData(data)
    user = str(prepared.user_ids(prepared.row_groups[0])[0].as_py())
    with load_run(tmp_path / "run") as loaded:
        rows = loaded.find_user(user).items.tolist()
        history = [loaded.catalogue.item_id(row) for row in rows]
        stored = loaded.recommend(user=user, k=5)
        by_ids = loaded.recommend(history=history, k=5)
    assert len(stored) == len(by_ids) == 5
    assert [item.score for item in stored] != [item.score for item in by_ids]


def test_a_log_without_times_is_rejected(tmp_path):
    shop = habits.prepared(tmp_path)
    config = tiny.config(
        repeats={"weight": 1.0, "time_bias": True}, negatives={"per_set": 64, "seen": False}
    )
    with pytest.raises(UserError, match=r"repeats\.time_bias: data set .* has no times"):
        tiny.train(config, shop, tmp_path / "run")
