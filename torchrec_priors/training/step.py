"""Trains the model for one step: looks up the batch, computes the loss, and updates the model.

With `training.accumulate`, each rank divides its share of the batch into parts, and computes the
loss of one part after another, so that a step needs less memory. Without it, the only part is the
whole share.

Rows are the rows of the tables; dense parameters are all other parameters. A rank raises a flag to
tell all ranks something, for example that it has been asked to stop. A step has these stages:

    1  set the learning rates of the step, clear the gradients        `Optimizers.prepare`
    2  look up all vectors (all-to-all), count targets (all-reduce)   `Recommender.begin`
    3  compute loss and gradients, part by part. DDP averages the     `_backward`
       gradients of dense parameters over ranks. The gradients of
       rows accumulate in the looked-up vectors. Those of the
       content of items then go to a trained item LLM
    4  sum loss, norms and flags over ranks (all-reduce). Abort the   `step`
       step if a sum is not finite, or if the loss is too large
    5  send the gradients of rows to the tables (all-to-all),         `LookedUp.backward`
       which update the rows immediately
    6  clip the dense gradients and update the dense parameters       `Optimizers.step`

The model does not change before stage 5, so an aborted step leaves it as it was.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.model.started_step import StartedStep
from torchrec_priors.ops.pinned import to_device
from torchrec_priors.training.built import ITEM_LLM, Built
from torchrec_priors.training.optimizers import Optimizers


@dataclass(frozen=True)
class StepResult:
    """The result of a step, the same on every rank.

    Attributes:
        loss: the loss of the global batch.
        gradient_norm: the norm of the gradients of the dense parameters, before clipping.
        counts: for each flag, the number of ranks that raised it.
    """

    loss: float
    gradient_norm: float
    counts: list[float]


class AbortedStepError(ArithmeticError):
    """Raised if a step would damage the model: every rank aborts it before the model changes.

    Attributes:
        loss, gradient_norm: see `StepResult`.
        finite: whether the loss and all gradients are finite.
        batch: this rank's share of the batch.
        looked_up: the vectors that were looked up for this share, with their gradients.
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
    """Trains the model on one global batch (the batches of all ranks).

    The number of parts does not affect the result. Every rank must call this function, with the
    same number of parts and the same number of flags.

    Args:
        built: the model.
        optimizers: the optimizers of the model.
        batch: this rank's share of the global batch.
        flags: for each flag, whether this rank raises it. `StepResult.counts` has the number of
            ranks that did.
        max_loss: a larger loss aborts the step.
        look_up: a function that looks up the vectors of a batch; by default the model's own.

    Raises:
        AbortedStepError: the loss or a gradient is not finite, or the loss is above `max_loss`. The
            model has not changed.
    """
    model = built.model
    where = built.ranks.where

    def announce(phase: str) -> None:
        where.doing = phase

    optimizers.prepare(batch.step)
    where.step = batch.step + 1
    started = model.begin(batch, look_up=look_up, announce=announce)

    announce("dense gradients (all-reduce)")
    loss, sums_3K = _backward(built, started)
    if started.looked_up.described is not None:
        announce("gradients of the item LLM (all-reduce)")
        started.looked_up.described.backward()
        _average_item_llm(built)

    # A single all-reduce sums everything that ranks need from each other: the numbers that decide
    # whether to abort, the numbers that are logged, the flags, and the sums over each head's losses
    # (`Certainty.sums`).
    announce("loss (all-reduce)")
    row_gradients = started.looked_up.gradients()
    norms = torch.stack(
        [optimizers.gradient_norm() / model.exchange.ranks, _sum_of_norms(row_gradients)]
    )
    raised = to_device(list(flags), loss.device, torch.float32)
    totals = model.exchange.total(torch.cat([loss, norms, raised, sums_3K.flatten()]))

    numbers = totals[: 3 + len(flags)].tolist()
    result = StepResult(numbers[0], numbers[1], numbers[3:])
    finite = all(map(math.isfinite, numbers[:3]))
    if not finite or result.loss > max_loss:
        raise AbortedStepError(result.loss, result.gradient_norm, finite, batch, started.looked_up)

    # The step is not aborted: from here on, the model changes.
    model.certainty.update(totals[3 + len(flags) :].view(3, -1))
    announce("gradients of rows (all-to-all)")
    started.looked_up.backward()
    optimizers.step(result.gradient_norm)
    return result


def _backward(built: Built, started: StartedStep) -> tuple[Tensor, Tensor]:
    """Computes the loss and the gradients of every part of the batch.

    Returns:
        This rank's share of the loss, [1], and its sums over each head's losses, [3, K]
        (`Certainty.sums`).
    """
    model = built.model
    device = model.item_set_K.device
    loss = torch.zeros(1, device=device)
    sums_3K = torch.zeros(3, model.paths, device=device)

    # The gradients of the parts add up on each rank. DDP averages them over the ranks once, in the
    # backward pass of the last part.
    ddp = built.parallel._dmp_wrapped_module
    last = len(started.parts) - 1
    for number in range(len(started.parts)):
        with nullcontext() if number == last else ddp.no_sync():
            part_loss, part_sums = built.parallel(started, number)
            part_loss.backward()
        loss += part_loss.detach() / model.exchange.ranks
        sums_3K += part_sums
    return loss, sums_3K


def _average_item_llm(built: Built) -> None:
    """Averages the gradients of the item LLM over ranks, as DDP does for all other modules."""
    exchange = built.model.exchange
    if exchange.ranks == 1:
        return
    for name, parameter in built.model.named_parameters():
        # FSDP2 has averaged the gradients of parameters that are divided.
        if not name.startswith(ITEM_LLM) or isinstance(parameter, DTensor):
            continue
        if parameter.grad is not None:
            parameter.grad = exchange.total(parameter.grad) / exchange.ranks


def _sum_of_norms(tensors: list[Tensor]) -> Tensor:
    """Returns the sum of the tensors' norms; it is not finite if any value is not finite."""
    return torch.stack([torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]).sum()
