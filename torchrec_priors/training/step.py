"""One training step: one lookup, the loss part by part, one update of tables and dense parameters.

    1  set the learning rates of the step, clear the gradients        `Optimizers.prepare`
    2  look up all vectors (all-to-all), count targets (all-reduce)   `Recommender.begin`
    3  loss and backward, part by part; DDP averages the dense        `_backward`
       gradients, and those of rows gather in the looked-up vectors
    4  sum loss, norms and flags over ranks (all-reduce); abort the step if a sum is not
       finite, or if the loss is too large
    5  send the gradients of rows to their tables (all-to-all),       `LookedUp.backward`
       which update their rows at once
    6  clip the dense gradients and update the dense parameters       `Optimizers.step`

Nothing changes before 5, so an aborted step leaves the model as it was.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.model import StartedStep
from torchrec_priors.training.build import Built
from torchrec_priors.training.optimizers import Optimizers


@dataclass(frozen=True)
class StepResult:
    """The result of a step, the same on every rank.

    Attributes:
        loss: of the global batch.
        gradient_norm: of the dense parameters, before clipping.
        counts: for each flag, the number of ranks that raised it.
    """

    loss: float
    gradient_norm: float
    counts: list[float]


class AbortedStepError(ArithmeticError):
    """A step that would have damaged the model; every rank gave it up before anything changed.

    Attributes:
        loss, gradient_norm: see `StepResult`.
        finite: whether both are finite, and every gradient is.
        batch, looked_up: this rank's part of the batch, with the gradients of its vectors.
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
    """Changes the model by one global batch; the number of parts does not change the result.

    Every rank must call it, with the same number of parts and of flags.

    Args:
        flags: raised by this rank, for all ranks to count.
        max_loss: a larger loss aborts the step.
        look_up: used instead of the model's.

    Raises:
        AbortedStepError: the loss or a gradient is not finite, or the loss is above `max_loss`;
            nothing was changed.
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

    # One all-reduce for all that ranks need of one another: whether to abort, and what to log.
    announce("loss (all-reduce)")
    row_gradients = started.looked_up.gradients()
    norms = torch.stack(
        [_dense_norm(optimizers) / model.exchange.ranks, _sum_of_norms(row_gradients)]
    )
    raised = torch.tensor(flags, dtype=torch.float32, device=loss.device)
    totals = model.exchange.total(torch.cat([loss, norms, raised, sums_3K.flatten()]))

    numbers = totals[: 3 + len(flags)].tolist()
    result = StepResult(numbers[0], numbers[1], numbers[3:])
    finite = all(map(math.isfinite, numbers[:3]))
    if not finite or result.loss > max_loss:
        raise AbortedStepError(result.loss, result.gradient_norm, finite, batch, started.looked_up)

    # From here on the model changes.
    model.certainty.update(totals[3 + len(flags) :].view(3, -1))
    announce("gradients of rows (all-to-all)")
    started.looked_up.backward()
    optimizers.step()
    return result


def _backward(built: Built, started: StartedStep) -> tuple[Tensor, Tensor]:
    """Loss and backward of every part.

    Returns:
        This rank's share of the loss, [1], and its sums for `Certainty`, [3, K].
    """
    model = built.model
    device = model.item_set_K.device
    loss = torch.zeros(1, device=device)
    sums_3K = torch.zeros(3, model.paths, device=device)

    # DDP averages the gradients of all parts over ranks in the backward of the last part.
    ddp = built.parallel._dmp_wrapped_module
    last = len(started.parts) - 1
    for number in range(len(started.parts)):
        with nullcontext() if number == last else ddp.no_sync():
            part_loss, part_sums = built.parallel(started, number)
            part_loss.backward()
        loss += part_loss.detach() / model.exchange.ranks
        sums_3K += part_sums
    return loss, sums_3K


def _dense_norm(optimizers: Optimizers) -> Tensor:
    groups = optimizers.dense.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    return norm


def _sum_of_norms(tensors: list[Tensor]) -> Tensor:
    """Not finite if any value of any tensor is not."""
    return torch.stack([torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]).sum()
