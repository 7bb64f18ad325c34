"""The aspects of items, and the score of a user and an item by their aspects.

Both are parts of DualVAE (see `dualvae.py`).

    x_a = (e W + b)_a                      one of A aspects of the item vector e
    c_a = softmax_a(cos(x_a, t_a) / T)     share of aspect a in the item; t_a are learned prototypes
    score = sum_a c_a z_a . x_a            for a user with the aspects z_a
    score = scale * sum_a c_a cos(z_a, x_a)    the same, if model.score = cosine

Shapes: M items, P queries, d model width, A aspects of width w.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.heads.score import Score
from torchrec_priors.settings.model import ScoreKind

_TEMPERATURE = 0.5  # T


class AspectScore(Score):
    """Turns item vectors and users' aspects into factors, whose dot products are the scores.

    The factors are [M, A w] and [P, A w], so retrieval and losses use them like any other vectors.
    """

    def __init__(self, kind: ScoreKind, dim: int, aspects: int, width: int) -> None:
        super().__init__(kind)
        self.project = nn.Linear(dim, aspects * width)
        self.prototype_Aw = nn.Parameter(torch.empty(aspects, width))

        # The initial values of a seed depend on the order of these draws.
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.normal_(self.prototype_Aw)

    def aspects(self, item_Md: Tensor) -> Tensor:
        """Returns x, [M, A, w]."""
        return self.project(item_Md).unflatten(-1, self.prototype_Aw.shape)

    def shares(self, aspect_MAw: Tensor) -> Tensor:
        """Returns c, [M, A]; each row sums to 1."""
        similarity_MA = F.cosine_similarity(aspect_MAw, self.prototype_Aw, dim=-1)
        return (similarity_MA / _TEMPERATURE).softmax(-1)

    def queries(self, query_Pd: Tensor) -> Tensor:
        """Returns the factors of users' aspects, given as A vectors one after another."""
        if self.kind == "dot":
            return query_Pd

        aspect_PAw = F.normalize(query_Pd.unflatten(-1, self.prototype_Aw.shape), dim=-1)
        return aspect_PAw.flatten(-2) * self.scale()

    def items(self, item_Md: Tensor) -> Tensor:
        """Returns the factors of item vectors."""
        aspect_MAw = self.aspects(item_Md)

        # The shares are computed from the aspects before normalisation.
        factor_MAw = aspect_MAw
        if self.kind != "dot":
            factor_MAw = F.normalize(aspect_MAw, dim=-1)

        return (factor_MAw * self.shares(aspect_MAw)[..., None]).flatten(-2)

    def overlap(self) -> Tensor:
        """Returns || T T' - I ||_F of normalised prototypes T: 0 if they are orthogonal."""
        prototype_Aw = F.normalize(self.prototype_Aw, dim=-1)
        identity_AA = torch.eye(
            len(prototype_Aw), dtype=prototype_Aw.dtype, device=prototype_Aw.device
        )
        return torch.linalg.matrix_norm(prototype_Aw @ prototype_Aw.T - identity_AA)
