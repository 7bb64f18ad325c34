"""The certainty of each head, measured by the variance of its loss over training positives.

Inverse-variance fusion needs the variance. It is kept as running means of -log p and of its square,
in which the weight of earlier training steps decays.

Shapes: K paths.
"""

import torch
from torch import Tensor, nn

_DECAY = 0.99  # weight of the old mean, in each step with positives of the head


class Certainty(nn.Module):
    """Moments of the heads' losses, saved with the model.

    Attributes:
        moments_2K: means of -log p and of its square.
        steps_K: number of steps with positives of each path.
    """

    moments_2K: Tensor
    steps_K: Tensor

    def __init__(self, paths: int) -> None:
        super().__init__()
        self.register_buffer("moments_2K", torch.zeros(2, paths))
        self.register_buffer("steps_K", torch.zeros(paths))

    @staticmethod
    def sums(nll_M: Tensor, path_M: Tensor, paths: int) -> Tensor:
        """Returns count, sum and sum of squares of each path's losses, [3, K].

        Args:
            nll_M: loss of each positive.
            path_M: path of each positive.
            paths: K.
        """
        nll = nll_M.detach()
        terms_3M = torch.stack([torch.ones_like(nll), nll, nll * nll])
        return terms_3M.new_zeros(3, paths).index_add(1, path_M, terms_3M)

    def update(self, sums_3K: Tensor) -> None:
        """Adds the sums of a step over the global batch.

        A path without positives in this step keeps its moments.
        """
        seen_K = sums_3K[0] > 0
        means_2K = sums_3K[1:] / sums_3K[0].clamp(min=1)
        updated_2K = _DECAY * self.moments_2K + (1 - _DECAY) * means_2K
        self.moments_2K.copy_(torch.where(seen_K, updated_2K, self.moments_2K))
        self.steps_K += seen_K

    def variance(self) -> Tensor:
        """Returns the variance of each head's loss, [K].

        A head that has had no positives gets the largest variance of the other heads.
        """
        # The running means start at 0, so they are divided by the total weight of the steps so far.
        weight_K = 1 - _DECAY**self.steps_K
        mean, square = self.moments_2K / weight_K.clamp(min=1e-12)
        variance_K = (square - mean * mean).clamp(min=0)
        return torch.where(self.steps_K > 0, variance_K, variance_K.max())
