"""Rank 0 removes what is left of an earlier attempt before any rank begins to write, not while others write."""

import time

import pytest
import tiny
from ranks import run_on_ranks

from torchrec_priors.config import parse
from torchrec_priors.training.checkpoint import checkpoint

SETTINGS = tiny.settings(
    training={"steps": 6, "evaluate_every": 2, "checkpoint_seconds": 0, "keep_last": 9}
)


def train_with_a_slow_rank_0(data, run):
    """Names of the folders that rank 0 removed, after it was late by a second each time."""
    removed = []
    remove_at_once = checkpoint.remove_leftover

    def remove_late(partial):
        time.sleep(1)
        if partial.exists():
            removed.append(partial.name)
        remove_at_once(partial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "remove_leftover", remove_late)
        tiny.train(parse(SETTINGS), data, run)
    return removed


def test_a_folder_that_another_rank_has_just_created_stays(small_data, tmp_path):
    run = tmp_path / "run"
    removed = run_on_ranks(2, train_with_a_slow_rank_0, small_data, run)
    assert removed == [[], []]
    assert (run / "checkpoints" / "step-00000006").is_dir()
