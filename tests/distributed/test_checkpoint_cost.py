"""What a checkpoint of MerRec's 1,255,665 items at width 256 costs on two ranks: time of processors, and memory."""

import threading
import time
from pathlib import Path

import pytest
from ranks import run_on_ranks
from torch import nn

from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.item_table import fuse_optimizer, item_table
from torchrec_priors.ranks.process import join
from torchrec_priors.settings.sharding import ShardingConfig
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints, Progress

ITEMS, DIM = 1_255_665, 256
EVERY = 120  # seconds between checkpoints


class _Built:
    def __init__(self, parallel):
        self.parallel = parallel


class _Optimizers:
    def __init__(self, parallel):
        self.all = parallel.fused_optimizer


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _cost(folder):
    """(seconds that `save` took, seconds of processors that the whole checkpoint took, bytes before, at most, after)"""
    model = nn.Module()
    model.table = item_table(ITEMS, DIM)
    fuse_optimizer(model.table, 0.1)
    with join() as ranks:
        parallel, _ = distribute(model, ranks.device, ShardingConfig())
        for tensor in parallel.state_dict().values():
            for shard in tensor.to_local().local_shards():
                shard.fill_(0.5)
        checkpoints, highest, over = Checkpoints(folder, ranks), [0], threading.Event()

        def watch():
            while not over.wait(0.01):
                highest[0] = max(highest[0], _resident())

        before, busy, began = _resident(), time.process_time(), time.monotonic()
        watching = threading.Thread(target=watch)
        watching.start()
        checkpoints.save(_Built(parallel), _Optimizers(parallel), Progress(step=1), best=False)
        waited = time.monotonic() - began
        checkpoints.finish()
        over.set()
        watching.join()
        busy = time.process_time() - busy
        return waited, busy, before, highest[0], _resident()


@pytest.mark.campaign
def test_a_checkpoint_every_two_minutes_takes_at_most_5_percent_and_one_copy_of_the_share(tmp_path):
    share = ITEMS * DIM * 4 / 2
    for waited, busy, before, highest, after in run_on_ranks(2, _cost, tmp_path):
        print(
            f"training waits {waited:.2f} s; {busy:.2f} s of processors in all, {busy / EVERY:.1%} of {EVERY} s; "
            f"{(highest - before) / share:.2f} times the share of {share / 1e6:.0f} MB more memory"
        )
        assert busy <= 0.05 * EVERY, (
            "on a rank whose one core is busy with training, this is what training loses"
        )
        assert highest - before <= 1.1 * share
        assert after - before <= 0.1 * share
