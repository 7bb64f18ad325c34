"""What a machine cannot hold is refused by the setting's name before it is made; real work is not."""

import re
import time
from datetime import timedelta

import pytest

from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.ranks.process import join
from torchrec_priors.training import fits_memory
from torchrec_priors.training.fits_memory import check_memory


def _check(folder, config, rows, *, for_training=True):
    data = PreparedData(folder)
    settings = parse(config)
    tree = load_tree(settings.priors, data, settings.model.horizon)
    with join(timedelta(seconds=60)) as ranks:
        check_memory(settings, data, tree, rows, ranks, for_training=for_training)


@pytest.mark.parametrize(
    ("config", "rows", "says"),
    [
        ({"model": {"dim": 256}}, 10**12, "table of 1,000,000,000,000 rows"),
        ({"model": {"dim": 65536}, "encoder": {"layers": 256}}, 150, "model.dim = 65,536"),
        ({"embedding": {"unseen": "managed", "rows": 24 * 10**10}}, 24 * 10**10, "embedding.rows"),
        ({"model": {"dim": 65536}, "encoder": {"layers": 256}}, 150, "encoder.layers = 256"),
    ],
)
def test_what_no_machine_holds(small_data, config, rows, says):
    before = time.perf_counter()
    with pytest.raises(
        UserError, match=rf"{re.escape(says)}.* needs at least .* of memory per rank"
    ):
        _check(small_data, config, rows)
    assert time.perf_counter() - before < 60


def test_work_of_real_size_is_allowed(small_data, monkeypatch):
    monkeypatch.setattr(fits_memory, "total_memory", lambda: 8 * 10**9)  # of a laptop
    heads = {"priors": {"tree": ["temporal:8", "random:8"]}, "model": {"dim": 256, "context": 8192}}
    _check(small_data, {**heads, "encoder": {"layers": 8}}, 1_260_000)
    huge_but_small = {
        "training": {"batch": 10**9},
        "negatives": {"per_set": 10**9},
        "evaluation": {"batch": 10**9},
    }
    _check(small_data, huge_but_small, 150)  # there is no more than the data set has


def test_a_batch_is_of_the_data(small_data, monkeypatch):
    monkeypatch.setattr(fits_memory, "total_memory", lambda: 10**6)
    deep = {"model": {"dim": 4}, "encoder": {"layers": 64, "heads": 1}}
    with pytest.raises(UserError, match=r"training\.batch = 1,000,000"):
        _check(small_data, {**deep, "training": {"batch": 10**6}}, 150)
    _check(small_data, {**deep, "training": {"batch": 1}}, 150)
    _check(small_data, {**deep, "training": {"batch": 10**6}}, 150, for_training=False)


def test_negatives_are_no_more_than_a_group_has(small_data):
    settings = parse(
        {"priors": {"tree": ["genre"]}, "negatives": {"per_set": 16}, "model": {"dim": 8}}
    )
    tree = load_tree(settings.priors, PreparedData(small_data), settings.model.horizon)
    expected = sum(min(size, 16) for size in tree.set_sizes.tolist()) * 8 * 4
    assert fits_memory._negatives(settings, tree).bytes == expected
