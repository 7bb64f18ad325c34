"""Ranks that wait for one that is stuck end with an error that names it."""

import os
import signal
import time
from datetime import timedelta

import pytest
import torch
from ranks import run_on_ranks

from torchrec_priors.ranks.process import join
from torchrec_priors.ranks.roll_call import lost_ranks

WAIT = 2  # seconds


def wait_for_rank_1():
    """What the others come to know while rank 1 joins no collective, and who of them says it."""
    with join(timedelta(seconds=WAIT)) as ranks:
        ranks.where.step, ranks.where.doing = 7, "loss (all-reduce)"
        ranks.total(torch.ones(1))
        if ranks.rank == 1:
            time.sleep(WAIT + 8)
            return None
        with pytest.raises(RuntimeError) as error:
            ranks.total(torch.ones(1))
        assert lost_ranks(ValueError("of another kind"), ranks) is None
        lost = lost_ranks(error.value, ranks)
        return str(lost), lost.speaks


@pytest.mark.slow
def test_who_did_not_answer_is_named():
    (message, speaks), nothing, (other_message, other_speaks) = run_on_ranks(3, wait_for_rank_1)
    assert nothing is None
    assert message.startswith(
        f"rank 1 did not answer within {WAIT} s (training.timeout_seconds) in step 7, loss"
    )
    assert (message, speaks) == (other_message, not other_speaks) == (message, True)


def stop_rank_0():
    """What rank 1 comes to know when rank 0, which keeps the store, is stopped."""
    with join(timedelta(seconds=WAIT)) as ranks:
        process = int(ranks.total(torch.tensor(os.getpid() * ranks.leads)))
        if ranks.leads:
            os.kill(process, signal.SIGSTOP)
            return None
        try:
            with pytest.raises(RuntimeError) as error:
                ranks.total(torch.ones(1))
            return str(lost_ranks(error.value, ranks))
        finally:
            os.kill(process, signal.SIGCONT)


@pytest.mark.slow
def test_rank_0_is_named_though_its_store_is_silent():
    nothing, message = run_on_ranks(2, stop_rank_0)
    assert nothing is None
    assert message.startswith(f"rank 0 did not answer within {WAIT} s")
