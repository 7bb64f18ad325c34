"""What several ranks compute equals what one computes: negatives, losses, parameters, retrieval, metrics."""

import numpy as np
import pytest
import tiny
import torch
from ranks import run_on_ranks

from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding import distribute
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.gather_slots import gather_slots
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import step

SETTINGS = tiny.settings(
    model={"dim": 16},
    encoder={"dropout": 0.3},
    training={"batch": 5, "steps": 12},
    evaluation={"batch": 8},
)
TREES = {"no priors": [], "item x temporal": ["temporal:2", "genre"]}
BY_TOKENS = {"training.batch": 0, "training.batch_tokens": 50}


def train(folder, tree, score, more=None):
    """(losses, whole table, dense parameters, metrics) after a few steps, batches smaller than the ranks included."""
    values = tiny.merged(SETTINGS, priors={"tree": tree})
    for key, value in {"model.score": score, **(more or {})}.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    config = parse(values)
    data = PreparedData(folder)
    with join() as ranks:
        built = build_model(config, data, ranks)
        set_loss_weights(built, config)
        optimizers, sampler = Optimizers(built, config), make_sampler(built, config, data, ranks)
        stream = WindowStream(
            data, context=12, horizon=4, batch=config.training.batch, batch_tokens=config.training.batch_tokens, seed=0,
            share=ranks.share, balanced_for=16, columns=built.training_columns,
        )  # fmt: skip
        losses = []
        for windows in stream:
            if windows.step == config.training.steps:
                break
            draw = sampler.draw(windows.step)
            batch = make_batch(
                windows, draw, feature=FEATURE, seed=config.seed, parts=config.training.accumulate
            )
            losses.append(step(built, optimizers, batch).loss)
        metrics = tiny.metrics_of(built, config, data, ranks)
        return losses, tiny.whole_table(built, ranks), tiny.dense_parameters(built), metrics


@pytest.fixture(
    scope="module",
    params=[("no priors", "cosine", BY_TOKENS), ("item x temporal", "dot", {})],
    ids=str,
)
def alone(request, small_data):
    name, *how = request.param
    return (small_data, TREES[name], *how), run_on_ranks(1, train, small_data, TREES[name], *how)[0]


@pytest.mark.parametrize("world", [2, 3])
def test_training_and_evaluation_do_not_depend_on_the_number_of_ranks(alone, world):
    arguments, (losses, rows, dense, metrics) = alone
    answers = run_on_ranks(world, train, *arguments)
    for other_losses, other_rows, other_dense, other_metrics in answers:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        torch.testing.assert_close(other_rows, rows, atol=2e-5, rtol=1e-3)
        for name, value in dense.items():
            torch.testing.assert_close(other_dense[name], value, atol=1e-3, rtol=1e-2)
        assert other_metrics["users"] == metrics["users"]
        assert abs(other_metrics["recall@50"] - metrics["recall@50"]) < 0.05
    assert len(set(losses)) == len(losses), "training does nothing"


@pytest.fixture(scope="module")
def answers():
    """(gathered negatives, gradient of the own piece, gathered ids, the planner's message) of three ranks."""
    return VALUES, SLOTS, run_on_ranks(3, _gather_and_fail_to_plan, VALUES, SLOTS)


VALUES, SLOTS = torch.randn(7, 3), [[0, 5], [1, 2, 3, 4, 6], []]


def _gather_and_fail_to_plan(values, slots):
    def make():
        raise RuntimeError("not enough\n memory for item")

    with join() as ranks:
        own = values[slots[ranks.rank]].clone().requires_grad_()
        slots_W = [torch.tensor(piece, dtype=torch.int64) for piece in slots]
        whole = gather_slots(own, slots_W, ranks.side)
        (whole * (ranks.rank + 1) * torch.arange(len(whole))[:, None]).sum().backward()
        ids = gather_slots(slots_W[ranks.rank], slots_W, ranks.side)
        try:
            distribute.together(make)
            message = "no failure"
        except UserError as error:
            message = str(error)
        return whole.detach(), own.grad, ids, message


def test_negatives_reach_all_ranks_and_their_gradients_come_back_summed(answers):
    values, slots, of_ranks = answers
    for rank, (whole, grad, ids, _) in enumerate(of_ranks):
        assert torch.equal(whole, values)
        assert ids.tolist() == list(range(7))
        expected = torch.tensor(slots[rank])[:, None].expand(-1, 3).float() * (1 + 2 + 3)
        torch.testing.assert_close(grad, expected)


def test_a_planner_failure_reaches_every_rank_as_one_line(answers):
    assert [message for *_, message in answers[2]] == [
        "no sharding plan was found: not enough memory for item"
    ] * 3
