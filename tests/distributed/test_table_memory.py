"""Training with MerRec's 1,255,665 items at width 128 on two ranks: each needs half the table, and little more."""

import resource

import pytest
from ranks import run_on_ranks

from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import step

ITEMS, DIM, STEPS = 1_255_665, 128, 20

CORPUS = '''
"""2,000 users of 40 interactions with items of a catalogue of {items}, each in one of 20 departments."""

import ibis
import numpy as np
import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels


def load(raw, bad_rows):
    random = np.random.default_rng(0)
    order = np.arange(80_000)
    log = {{"user_id": order // 40, "item_id": random.integers(0, {items}, 80_000), "timestamp": order, "order": order}}
    item = np.arange({items})
    labels = pa.table({{"item_id": item, "label": pa.array([f"department {{n}}" for n in range(20)]).take(item % 20)}})
    catalogue = pa.table({{"item_id": item, "title": pa.array(item).cast(pa.string())}})
    return Corpus(
        name="large",
        interactions=ibis.memtable(pa.table(log)),
        items=ibis.memtable(catalogue),
        category_prior="department",
        default_horizon=1,
        item_priors=[Labels("department", ibis.memtable(labels), "no department")],
    )
'''


def _peak(folder):
    """Bytes of this rank's memory at its highest, after a few steps; no checkpoint is made."""
    config = parse(
        {
            "model": {"dim": DIM, "context": 50, "horizon": 4},
            "priors": {"tree": ["temporal:2", "department"]},
            "negatives": {
                "per_set": 32
            },  # fewer than the smallest department has: both tables do the same work
            "training": {"batch": 64, "steps": STEPS},
        }
    )
    data = PreparedData(folder)
    with join() as ranks:
        built = build_model(config, data, ranks)
        set_loss_weights(built, config)
        optimizers, sampler = Optimizers(built, config), make_sampler(built, config, data, ranks)
        for windows in WindowStream(
            data, context=50, horizon=4, batch=64, seed=0, share=ranks.share
        ):
            if windows.step == STEPS:
                break
            step(
                built,
                optimizers,
                make_batch(windows, sampler.draw(windows.step), feature=FEATURE, seed=0),
            )
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _prepared(folder, items):
    folder.mkdir()
    (folder / "large.py").write_text(CORPUS.format(items=items))
    (folder / "raw").mkdir()
    prepare(Settings(str(folder / "large.py"), folder / "raw"), folder / "data")
    return folder / "data"


@pytest.mark.campaign
def test_each_of_two_ranks_needs_half_the_table_and_what_a_tiny_one_needs(tmp_path):
    large, small = (
        run_on_ranks(2, _peak, _prepared(tmp_path / str(items), items)) for items in (ITEMS, 1_000)
    )
    half = ITEMS * DIM * 4 / 2
    for rank, (here, tiny) in enumerate(zip(large, small, strict=True)):
        print(f"rank {rank}: {here / 2**20:.0f} MiB for {half / 2**20:.0f} + {tiny / 2**20:.0f}")
        assert here <= 1.1 * (half + tiny)
