"""Whole steps and evaluations as on a GPU: no tensor of the CPU takes part, and the numbers are the CPU's."""

from typing import Any

import habits
import pytest
import tiny
import torch
from device_of_the_host import CUDA, DeviceTensor, MixedDevicesError, device, move
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.metrics.evaluation import evaluate
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.training.batches import Batches
from torchrec_priors.training.build import build_model
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.sampler import make_sampler

TREE = ["temporal:2", "genre"]
USES: dict[str, dict[str, dict[str, Any]]] = {
    "hierarchical": {"priors": {"tree": TREE}},
    "multiplicative": {"priors": {"tree": TREE, "composition": "multiplicative"}},
    "additive": {"priors": {"tree": TREE, "composition": "additive"}, "loss": {"gate": 1.0}},
    "vectors": {"priors": {"tree": TREE, "adapters": "vector"}},
    "some paths back off": {"priors": {"tree": TREE, "min_positives": 30}},
    "users and events": {"priors": {"tree": ["gender", "rating"]}, "loss": {"gate": 1.0}},
    "one head": {"priors": {"tree": []}},
    "cosine, logq and shared negatives": {
        "model": {"score": "cosine"},
        "priors": {"tree": TREE},
        "negatives": {"logq": True, "catalogue_share": 0.3},
    },
    "seen items are no negatives": {"priors": {"tree": TREE}, "negatives": {"seen": False}},
    "repeats": {
        "priors": {"tree": []},
        "repeats": {"weight": 1.0, "time_bias": True},
        "negatives": {"seen": False},
    },
    "times and events": {"encoder": {"time_bias": True, "events": True}},
    "sasrec": {"encoder": {"backbone": "sasrec"}},
    "shallow": {"encoder": {"backbone": "shallow"}},
    "recomputed": {"encoder": {"recompute": True}},
    "comirec": {"baseline": {"name": "comirec", "interests": 3}},
    "comirec by routing": {
        "baseline": {"name": "comirec", "interests": 3, "options": {"routing": "dynamic"}}
    },
    "mind": {"baseline": {"name": "mind", "interests": 3}},
    "remi": {"baseline": {"name": "remi", "interests": 3}},
    "dualvae": {"baseline": {"name": "dualvae", "options": {"dropout": 0.0}}},
}
FUSIONS: dict[str, dict[str, dict[str, Any]]] = {
    "max": {},
    "calibrated": {"loss": {"gate": 1.0}, "evaluation": {"calibrated": True}},
    "mean": {"evaluation": {"fusion": "mean"}},
    "hierarchical": {
        "loss": {"gate": 1.0},
        "evaluation": {"calibrated": True, "fusion": "hierarchical"},
    },
    "inverse_variance": {"evaluation": {"fusion": "inverse_variance"}},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A prepared log whose items have one category each."""
    return habits.prepared(tmp_path_factory.mktemp("shop"))


class _Table(nn.Module):
    """A table on one device, in place of TorchRec's."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, ids: Any) -> dict[str, JaggedTensor]:
        (key,) = ids.keys()
        vectors = nn.functional.embedding(ids.values(), self.rows)
        return {key: JaggedTensor(values=vectors, lengths=ids.lengths())}


def _step(model, batch):
    """Loss, and gradients of the parameters and of the rows, in a step of one part."""
    model.zero_grad()
    started = model.begin(batch)
    loss, sums = model(started, 0)
    loss.backward()
    model.certainty.update(sums)
    started.looked_up.backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    return loss.detach(), gradients


def _model_and_batch(config, data, ranks):
    """The model with a plain table, and its first batch."""
    built = build_model(config, data, ranks)
    set_loss_weights(built, config)
    sampler = make_sampler(built, config, data, ranks)
    batches = Batches(built, config, data, sampler).after(0)
    batch = next(batches)
    batches.close()
    built.model.table = _Table(tiny.whole_table(built, ranks))
    built.model.train()
    return built, batch


def _on_host(x):
    return x.inner if isinstance(x, DeviceTensor) else x


@pytest.mark.slow
@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("dropout", [0.0, 0.2], ids=["", "dropout"])
def test_a_step_on_a_device_is_that_of_the_cpu(small_data, use, dropout):
    sections = {**use, "encoder": {"dropout": dropout, **use.get("encoder", {})}}
    _compare(tiny.config(**sections), small_data, dropout)


@pytest.mark.slow
@pytest.mark.parametrize("gate", [0.0, 1.0], ids=["", "gate"])
def test_a_step_with_a_joint_softmax_on_a_device_is_that_of_the_cpu(shop, gate):
    config = tiny.config(
        model={"horizon": 2},
        encoder={"dropout": 0.0},
        priors={"tree": ["category"]},
        loss={"softmax": "joint", "gate": gate},
        negatives={"per_set": 8, "logq": True},
    )
    _compare(config, shop)


def _compare(config, folder, dropout=0.0):
    """Compares loss and gradients of a step on a device with those of the CPU."""
    data = PreparedData(folder)
    with join() as ranks:
        built, batch = _model_and_batch(config, data, ranks)
        loss, gradients = _step(built.model, batch)

        move(built.model)
        with device():
            parameters = list(built.model.parameters())
            optimizer = torch.optim.AdamW(parameters, fused=True)
            device_loss, device_gradients = _step(built.model, batch.to(CUDA))
            optimizer.step()

    assert all(isinstance(x, DeviceTensor) for x in device_gradients.values())
    assert gradients.keys() == device_gradients.keys()
    # The masks of dropout and the noise of DualVAE are others there.
    if not dropout:
        torch.testing.assert_close(_on_host(device_loss), loss, rtol=1e-4, atol=1e-5)
        for name, gradient in gradients.items():
            largest = float(gradient.abs().max())
            torch.testing.assert_close(
                _on_host(device_gradients[name]), gradient, rtol=1e-3, atol=1e-4 * (largest + 1e-3)
            )


@pytest.mark.slow
@pytest.mark.parametrize("use", FUSIONS.values(), ids=FUSIONS)
def test_an_evaluation_on_a_device_has_the_metrics_of_the_cpu(small_data, use):
    config, data = tiny.config(priors={"tree": TREE}, **use), PreparedData(small_data)
    with join() as ranks:
        built, _ = _model_and_batch(config, data, ranks)
        built.model.eval()
        rows = built.model.table.rows.detach()

        def metrics(table, where):
            index = GroupIndex(built.model.tree, Shard(table, 0))
            return evaluate(
                built.model,
                index,
                data,
                "test",
                config.evaluation,
                share=ranks.share,
                device=where,
                columns=built.columns,
                total=ranks.total,
            )

        expected = metrics(rows, torch.device("cpu"))
        move(built.model)
        with device():
            found = metrics(DeviceTensor(rows.clone()), CUDA)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_forgotten_tensor_is_noticed(small_data):
    config, data = tiny.config(priors={"tree": TREE}), PreparedData(small_data)
    with join() as ranks:
        built, batch = _model_and_batch(config, data, ranks)
        move(built.model)
        built.model.heads._buffers["path_K1"] = torch.arange(len(built.model.tree.paths) + 1)
        with device(), pytest.raises(MixedDevicesError):
            _step(built.model, batch.to(CUDA))


def test_tensors_of_the_device_are_not_read_by_accident():
    with device():
        x = torch.arange(3.0, device=CUDA)
        assert x.is_cuda
        assert (x + 1).device == torch.zeros_like(x).device == CUDA
        assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4]
        with pytest.raises(MixedDevicesError):
            x + torch.ones(3)
        with pytest.raises(TypeError):
            x.numpy()
        assert x.cpu().numpy().tolist() == [0, 1, 2]
        y = x.clone()
        y[1:].mul_(10)
        assert y.tolist() == [0, 10, 20]
