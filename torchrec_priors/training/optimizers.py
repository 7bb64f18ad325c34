"""The optimizers of a run: fused row-wise Adagrad on the tables, AdamW on everything else.

    optimizer    changes             in                          its learning rate at a step
    fused        rows of tables      `LookedUp.backward`         table.learning_rate * rate
    dense        everything else     `Optimizers.step`           training.learning_rate * rate

`TrainingConfig.rate` is the schedule that both share: a linear warm-up, then a cosine to 0.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from torchrec_priors.ops.gpu_kernel import on_gpu
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.built import Built
from torchrec_priors.training.divided_llms import norm_over_ranks


class Optimizers:
    """Both optimizers. Their learning rates depend only on the step.

    Attributes:
        dense: AdamW with clipped gradients.
        fused: row-wise Adagrad, which changes rows of the tables during the backward pass.
        all: both optimizers as one, for checkpoints.
    """

    def __init__(self, built: Built, config: RunConfig) -> None:
        settings = config.training
        # On a GPU, one kernel updates all parameters.
        fused = on_gpu(built.model.item_set_K) or None

        # A frozen language model has no gradients.
        dense = {
            name: parameter
            for name, parameter in in_backward_optimizer_filter(built.parallel.named_parameters())
            if parameter.requires_grad
        }
        adamw = KeyedOptimizerWrapper(
            dense,
            lambda parameters: torch.optim.AdamW(
                _groups(parameters),
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                fused=fused,
            ),
        )

        # TorchRec's clipping does not see gradients that are divided among ranks.
        self._divided = any(isinstance(parameter, DTensor) for parameter in dense.values())
        clipping = GradientClipping.NONE if self._divided else GradientClipping.NORM
        self.dense = GradientClippingOptimizer(
            adamw, clipping=clipping, max_gradient=settings.clip_norm
        )

        self.fused = built.parallel.fused_optimizer
        self.all = CombinedOptimizer([("table", self.fused), ("dense", self.dense)])
        self._config = config

    def prepare(self, step: int) -> None:
        """Sets the learning rates of a step and clears the gradients.

        Call it before the step's backward pass, because the fused optimizer updates rows there.
        """
        rate = self._config.training.rate(step)
        for group in self.fused.param_groups:
            group["lr"] = rate * self._config.table.learning_rate
        for group in self.dense.param_groups:
            group["lr"] = rate * self._config.training.learning_rate

        self.all.zero_grad()

    def gradient_norm(self) -> Tensor:
        """Returns the norm of all dense gradients. Every rank must call it."""
        gradients = self._gradients()
        if self._divided:
            return norm_over_ranks(gradients)
        norm: Tensor = torch.nn.utils.get_total_norm(gradients)
        return norm

    def step(self, norm: float) -> None:
        """Updates the dense parameters; the tables were updated during the backward pass.

        Args:
            norm: the norm of the dense gradients.
        """
        if self._divided:
            factor = min(1.0, self._config.training.clip_norm / (norm + 1e-6))
            for gradient in self._gradients():
                gradient.mul_(factor)
        self.all.step()

    def _gradients(self) -> list[Tensor]:
        """Returns the gradients of the dense parameters."""
        groups = self.dense.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def make_state(self) -> None:
        """Creates AdamW's state: a checkpoint can only be loaded into a state that exists."""
        self.dense.init_state()


def _groups(parameters: list[Tensor]) -> list[dict[str, Any]] | list[Tensor]:
    """Returns groups for AdamW, whose kernels do not mix divided and whole parameters."""
    divided = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    if not divided:
        return parameters
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    return [{"params": group} for group in (whole, divided) if group]
