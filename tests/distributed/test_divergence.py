"""A step that would spoil the model changes nothing on any rank, and the message says where in the data that was."""

import math

import pytest
import tiny
import torch
from ranks import run_on_ranks

from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.divergence import diverged
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import AbortedStepError, step

CONFIG = tiny.config(priors={"tree": ["temporal:2"]}, training={"batch": 8})
FAULTS = ["gradient", "vector", "too large"]


def spoil(folder):
    """How a second step ends with each of the faults, which are those of the last rank's first window.

    Its gradient is not a number, though the loss is one; or its first item's vector is none; or the loss is too large.
    For each the message and the tensors that changed; then the window's user and item, and what the first step told.
    """
    config, data = CONFIG, PreparedData(folder)
    with join() as ranks:
        built = build_model(config, data, ranks)
        set_loss_weights(built, config)
        optimizers, sampler = Optimizers(built, config), make_sampler(built, config, data, ranks)
        stream = iter(WindowStream(data, context=12, horizon=4, batch=8, seed=0, share=ranks.share))
        at_fault, look_up = ranks.rank == ranks.world - 1, built.model.look_up

        def batch(windows):
            return make_batch(windows, sampler.draw(windows.step), feature=FEATURE, seed=0)

        told = step(built, optimizers, batch(next(stream)), flags=[at_fault, False])
        before = {name: tensor.clone() for name, tensor in _tensors(built, optimizers)}
        windows, ends = next(stream), {}
        for fault in FAULTS:

            def look_up_spoilt(batch, fault=fault):
                looked_up = look_up(batch)
                if at_fault and fault == "gradient":
                    factor = torch.ones_like(looked_up.vector_Xd)
                    factor[0] = math.nan
                    looked_up.vector_Xd.register_hook(lambda gradient: gradient * factor)
                if at_fault and fault == "vector":
                    looked_up.vector_Xd.data[0] = math.nan
                return looked_up

            built.model.look_up = look_up_spoilt
            limit = 0.01 if fault == "too large" else math.inf
            with pytest.raises(AbortedStepError) as error:
                step(built, optimizers, batch(windows), max_loss=limit)
            changed = [
                name
                for name, tensor in _tensors(built, optimizers)
                if not torch.equal(tensor, before[name])
            ]
            ends[fault] = (
                str(diverged(error.value, data, ranks, limit, "'run/step-00000001'")),
                changed,
            )
        user = data.user_texts()[windows.users[0]].as_py()
        item = data.catalogue()["item_id"][int(windows.items[0])].as_py()
        return ends, user, item, told.counts


def _tensors(built, optimizers):
    """Rows, dense parameters, and the states of both optimizers."""
    yield "rows", built.shard.rows
    yield from (
        (name, tensor.detach())
        for name, tensor in built.model.named_parameters()
        if "table" not in name
    )
    for name, state in optimizers.all.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                yield f"{name}/{key}", value.to_local() if hasattr(value, "to_local") else value


@pytest.mark.slow
def test_nothing_changes_on_any_rank_and_the_user_is_named(small_data):
    (ends, *_, counts), (same_ends, user, item, same_counts) = run_on_ranks(2, spoil, small_data)
    assert counts == same_counts == [1.0, 0.0]  # what a rank has to tell arrives at all
    for fault in FAULTS:
        message, changed = ends[fault]
        assert (message, changed) == (same_ends[fault][0], [])
        assert same_ends[fault][1] == []
        assert "diverged in step 2" in message
        assert "last checkpoint 'run/step-00000001'" in message
        assert ("the gradient norm nan" in message) == (fault == "vector")
        assert (f"item vectors that are not finite: {item}" in message) == (fault == "vector")
        assert (f"not finite for these users: {user} (rank 1);" in message) == (
            fault != "too large"
        )
    message, _ = ends["too large"]
    assert "more than 0.01: training.max_loss" in message
    assert "largest for these users" in message
