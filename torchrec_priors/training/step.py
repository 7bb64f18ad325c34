"""One training step: one lookup, the loss part by part, one update of tables and dense parameters."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.training.build import Built, Optimizers


@dataclass(frozen=True)
class StepResult:
    """What a step came to, the same on every rank.

    Attributes:
        loss: of the global batch.
        gradient_norm: of the dense parameters, before it was clipped.
        counts: for each of the flags that ranks gave, how many said yes.
    """

    loss: float
    gradient_norm: float
    counts: list[float]


class AbortedStepError(ArithmeticError):
    """A step that would have spoilt the model, given up on every rank before anything was changed.

    Attributes:
        loss, gradient_norm: as of `StepResult`.
        finite: whether they are numbers, and so is every gradient.
        batch, looked_up: this rank's part of it, with the gradients of its vectors.
    """

    def __init__(
        self, loss: float, gradient_norm: float, finite: bool, batch: Batch, looked_up: LookedUp
    ) -> None:
        super().__init__(f"step {batch.step}: loss {loss}, gradient norm {gradient_norm}")
        self.loss = loss
        self.gradient_norm = gradient_norm
        self.finite = finite
        self.batch = batch
        self.looked_up = looked_up


def step(
    built: Built,
    optimizers: Optimizers,
    batch: Batch,
    *,
    flags: Sequence[bool] = (),
    max_loss: float = math.inf,
    look_up: Callable[[Batch], LookedUp] | None = None,
) -> StepResult:
    """Changes the model by one global batch, with the same result whatever the parts.

    Every rank must call it, with the same number of parts and of flags.

    Args:
        flags: what this rank has to tell the others.
        look_up: in place of the model's.

    Raises:
        AbortedStepError: the loss or a gradient is not finite, or the loss is above `max_loss`; nothing was changed.
    """
    model = built.model
    where = built.ranks.where
    optimizers.prepare(batch.step)
    where.step = batch.step + 1
    where.doing = "lookup (all-to-all)"
    looked_up = (look_up or model.look_up)(batch)
    where.doing = "numbers of targets (all-reduce)"
    positives = [model.positives(looked_up, part) for part in batch.parts]
    counts = model.counts(positives)
    dense = (
        built.parallel._dmp_wrapped_module
    )  # DDP, which averages the gradients of the last part's backward
    device = model.item_set_K.device
    whole = torch.zeros(1, device=device)
    sums_3K = torch.zeros(3, model.paths, device=device)
    where.doing = "dense gradients (all-reduce)"
    for number, (part, found) in enumerate(zip(batch.parts, positives, strict=True), 1):
        waits = number < len(batch.parts)
        with dense.no_sync() if waits else nullcontext():
            loss, sums = built.parallel(looked_up, part, found, counts)
            loss.backward()
        whole += loss.detach() / model.exchange.ranks
        sums_3K += sums
    where.doing = "loss (all-reduce)"
    norms = torch.stack(
        [_dense_norm(optimizers) / model.exchange.ranks, _norm(looked_up.gradients())]
    )
    own = torch.cat(
        [whole, norms, torch.tensor(flags, dtype=torch.float32, device=device), sums_3K.flatten()]
    )
    told = model.exchange.total(own)
    of_step = told[: 3 + len(flags)].tolist()
    sums_3K = told[3 + len(flags) :].view(3, -1)
    stepped = StepResult(of_step[0], of_step[1], of_step[3:])
    finite = all(map(math.isfinite, of_step[:3]))
    if not finite or stepped.loss > max_loss:
        raise AbortedStepError(stepped.loss, stepped.gradient_norm, finite, batch, looked_up)
    model.certainty.update(sums_3K)
    where.doing = "gradients of rows (all-to-all)"
    looked_up.backward()
    optimizers.step()
    return stepped


def _dense_norm(optimizers: Optimizers) -> Tensor:
    parameters = (
        parameter for group in optimizers.dense.param_groups for parameter in group["params"]
    )
    norm: Tensor = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm


def _norm(tensors: list[Tensor]) -> Tensor:
    """No finite number where one of theirs is not."""
    return torch.stack([torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]).sum()
