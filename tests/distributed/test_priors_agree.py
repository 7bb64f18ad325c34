"""Trees of all kinds and compositions: what ranks compute together is what one computes alone.

Among them a batch in which a rank has windows but nothing to predict, one in which it has no windows at all, and a
group that no batch ever meets: every rank takes part in every exchange, and gradients are those of the whole batch.
"""

import itertools

import numpy as np
import pytest
import tiny
import torch
from ranks import run_on_ranks
from test_ranks_agree import SETTINGS, train

from torchrec_priors.config import parse
from torchrec_priors.data.batch import make_batch
from torchrec_priors.data.windows import WindowStream
from torchrec_priors.embedding.item_table import FEATURE, Shard
from torchrec_priors.heads.score import Score
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.item import ItemPrior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.search import log_normalisers, search, search_reference
from torchrec_priors.retrieval.search_types import Queries
from torchrec_priors.training.build import build_model
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import step

pytestmark = pytest.mark.slow

COMMUNITIES = """
import numpy as np
from torchrec_priors.priors.item import ItemPrior

def load(argument, data, horizon):
    rows = np.arange(data.items)
    return ItemPrior("community", ["c1", "c2", "c3"], rows, rows * 7 % 3, data.items)
"""
RARE = """
import numpy as np
from torchrec_priors.priors.item import ItemPrior

def load(argument, data, horizon):
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
    known, never = np.argsort(-frequency)[20:30], np.flatnonzero(frequency == 0)
    rows = np.concatenate([known, never])
    return ItemPrior("rare", ["known", "never"], rows, np.repeat([0, 1], [len(known), len(never)]), data.items)
"""

TREES = {
    "all five": (
        ["temporal:2", "rating", "genre", "gender", "communities.py"],
        {
            "training.steps": 3,
            "loss.gate": 1.0,
            "negatives.seen": False,
            "evaluation.calibrated": True,
            "evaluation.fusion": "hierarchical",
        },
    ),
    "all five added": (
        ["temporal:2", "rating", "genre", "gender", "communities.py"],
        {
            "training.steps": 4,
            "priors.composition": "additive",
            "priors.init_std": 0.1,
            "loss.gate": 0.5,
            "evaluation.calibrated": True,
            "evaluation.fusion": "mean",
            "evaluation.normaliser_rows": 32,
        },
    ),
    "multiplied, told": (
        ["gender", "rating"],
        {
            "training.steps": 4,
            "priors.composition": "multiplicative",
            "priors.adapters": "vector",
            "evaluation.fusion": "inverse_variance",
        },
    ),
}
BATCHES = (4, 3)


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    """A folder with two priors of one's own."""
    folder = tmp_path_factory.mktemp("priors")
    (folder / "communities.py").write_text(COMMUNITIES)
    (folder / "rare.py").write_text(RARE)
    return folder


def everything(data, priors, firsts):
    """What `train` gives for each tree, `gradients` for each batch, and `closed_paths`, in one start of the ranks."""
    with join() as ranks:
        trained = {}
        for name, (tree, more) in TREES.items():
            levels = [f"{priors}/{level}" if level.endswith(".py") else level for level in tree]
            trained[name] = train(data, levels, "dot", more)
        rare = [f"{priors}/rare.py"]
        found = {batch: gradients(data, rare, batch, first, 1) for batch, first in firsts.items()}
        return trained, found, closed_paths(ranks)


@pytest.fixture(scope="module")
def firsts(small_data, priors):
    """For each size of batch, a step whose first half has nothing to predict, but the rest has."""
    found = {}
    for batch in BATCHES:
        of_windows = run_on_ranks(1, gradients, small_data, [f"{priors}/rare.py"], batch, 0, batch)[
            0
        ]
        empty = batch // 2
        found[batch] = next(
            n for n, counts in enumerate(of_windows) if not any(counts[:empty]) and sum(counts)
        )
    return found


@pytest.fixture(scope="module")
def alone(small_data, priors, firsts):
    return run_on_ranks(1, everything, small_data, priors, firsts)[0]


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, marks=pytest.mark.slow), 4],
    ids=lambda world: f"{world} ranks",
)
def together(request, small_data, priors, firsts):
    return run_on_ranks(request.param, everything, small_data, priors, firsts)


@pytest.mark.parametrize("name", TREES)
def test_training_and_evaluation_do_not_depend_on_the_number_of_ranks(name, alone, together):
    losses, rows, dense, metrics = alone[0][name]
    assert np.isfinite(losses).all()
    assert any(value.any() for key, value in dense.items() if key.startswith("heads.adapters"))
    for answer in together:
        other_losses, other_rows, other_dense, other_metrics = answer[0][name]
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        torch.testing.assert_close(other_rows, rows, atol=2e-5, rtol=1e-3)
        for key, value in dense.items():
            torch.testing.assert_close(other_dense[key], value, atol=1e-3, rtol=1e-2)
        assert list(other_metrics) == list(metrics)
        for key in (
            "recall@50",
            "event_given/recall@50",
            "group/gender/M/recall@50",
            "group/rating/4 stars/recall@50",
        ):
            assert abs(other_metrics[key] - metrics[key]) < 0.05
        counts = [key for key in metrics if key.endswith(("users", "targets"))]
        assert [other_metrics[key] for key in counts] == [metrics[key] for key in counts]


def test_paths_that_are_closed_to_a_user_stay_closed_on_every_rank(alone, together):
    for answer in [alone, *together]:
        fast, slow, _ = answer[2]
        assert fast.row_Bk.tolist() == slow.row_Bk.tolist()
        assert fast.score_Bk.tolist() == slow.score_Bk.tolist()
        assert (fast.row_Bk < 0).any(), "no user lacks items"


def test_normalisers_are_over_the_rows_of_all_ranks(alone, together):
    """Rank 0 has the same users in every world."""
    for answer in together:
        normalisers = answer[2][2]
        if len(normalisers) == len(alone[2][2]):
            torch.testing.assert_close(normalisers, alone[2][2], rtol=1e-6, atol=0)
    assert sum(len(answer[2][2]) == len(alone[2][2]) for answer in together) == 1


@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_are_exact_where_a_rank_has_nothing_to_predict(batch, alone, together):
    """With 4 windows rank 0 has some without a positive; with 3 windows on 4 ranks it has none at all."""
    loss, grads, rows, *_ = alone[1][batch]
    assert loss > 0
    assert grads["heads.adapters.0"][0].any()
    assert not grads["heads.adapters.0"][1].any(), "a group that is empty everywhere"
    answers = [answer[1][batch] for answer in together]
    positives, windows = [answer[3] for answer in answers], [answer[4] for answer in answers]
    assert positives[0] == 0
    assert sum(positives) > 0
    assert (windows[0] == 0) == (batch < len(together))
    for other_loss, other_grads, other_rows, *_ in answers:
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert other_grads.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(other_grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(other_rows, rows, rtol=1e-4, atol=1e-6)


def gradients(folder, tree, batch, first_step, chosen):
    """(loss, gradients, positives of each part and step) of steps from `first_step` on; `chosen` parts a batch."""
    values = tiny.merged(
        SETTINGS,
        priors={"tree": tree, "min_positives": 0, "init_std": 0.1},
        encoder={"dropout": 0.0},
        training={"clip_norm": 1e9, "accumulate": chosen},
    )
    config, data = parse(values), PreparedData(folder)
    with join() as ranks:
        built = build_model(config, data, ranks)
        set_loss_weights(built, config)
        optimizers, sampler = Optimizers(built, config), make_sampler(built, config, data, ranks)
        stream = WindowStream(
            data, context=12, horizon=4, batch=batch, seed=0, share=ranks.share, first_step=first_step,
            columns=built.training_columns,
        )  # fmt: skip
        steps = 1 if chosen == 1 else 40
        found = []
        for windows in itertools.islice(stream, steps):
            made = make_batch(
                windows, sampler.draw(windows.step), feature=FEATURE, seed=0, parts=chosen
            )
            if chosen > 1:
                looked_up = built.model.look_up(made)
                found.append(
                    [len(built.model.positives(looked_up, part).path_M) for part in made.parts]
                )
                continue
            loss = step(built, optimizers, made).loss
            here = len(built.model.positives(built.model.look_up(made), made.parts[0]).path_M)
            grads = {
                name: p.grad.clone()
                for name, p in built.model.named_parameters()
                if "table" not in name
            }
            rows = torch.zeros(data.items, config.model.dim)
            rows[built.shard.first : built.shard.last] = built.shard.rows
            found = (loss, grads, ranks.total(rows), here, len(windows.lengths))
        return found


def closed_paths(ranks):
    """(search, its reference) for users of this rank, most of whose paths are closed; numbers are exact in float32."""
    items = 40
    rows = np.arange(items)
    tree = PriorTree([ItemPrior("mine", ["a", "b", "c"], rows, rows % 3, items)], items)
    table = torch.randint(-2, 3, (items, 4), generator=torch.Generator().manual_seed(9)).float()
    generator = torch.Generator().manual_seed(ranks.rank)
    query = torch.randint(-2, 3, (2 + ranks.rank, 3, 4), generator=generator).float()
    bias = torch.zeros(len(query), 3).masked_fill(
        torch.rand(len(query), 3, generator=generator) < 0.6, -torch.inf
    )
    queries = Queries(query, bias)
    eligible = torch.zeros(3, items, dtype=torch.bool)
    for number, path in enumerate(tree.paths):
        eligible[number, tree.eligible(0, items)[path.item_set]] = True
    mine = ranks.share.of(items)
    index = GroupIndex(tree, Shard(table[mine], mine.start))
    fast = search(index, Score("dot"), queries, None, 20)
    return (
        fast,
        search_reference(table, eligible, queries, None, 20),
        log_normalisers(index, Score("dot"), queries),
    )
