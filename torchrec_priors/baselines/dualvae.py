"""DualVAE (Guo et al., "DualVAE: Dual Disentangled Variational AutoEncoder for Recommendation", SDM 2024) on sequences.

The original reconstructs whole rows and columns of a matrix of users and items, from latent variables of users and of
items in turns. Users here are histories, which predict what comes next from one table of items, so its four parts
become, for position n of a history, as the authors of the human priors' paper adapted it:

    attention-aware dual disentanglement (`aspects.py`): x_ja = (s_j W + b)_a of the encoder's states s_j, and c_ja
        f_na = sum over j <= n of softmax_j(v . tanh(U c_ja x_ja)) c_ja x_ja       in place of a sum over users' items
    disentangled variational inference, its network shared by all aspects
        h = dropout(tanh(norm(f_na W_1 + b_1)));  mu = h W_m + b_m;  sigma = sigmoid(h W_s + b_s)
        z_na = mu + sigma eps, eps ~ N(0, 1), in training; mu at retrieval
        KL = mean_a 1/2 sum_w (mu^2 + sigma^2 - 1 - 2 log sigma)                  against N(0, 1)
    joint generation: sum_a c_ia z_na . x_ia is item i's score (`aspects.py`), whose likelihood is the softmax over
        many negatives of every other model here, in place of a Poisson likelihood of the row
    neighbourhood-enhanced constraint, of a target i in place of the reconstructed neighbours
        CL = mean_a -log( e^{cos(z_na, x_ia) / .2} / sum_b e^{cos(z_nb, x_ia) / .2} )

    loss = softmax (Eq. 8) + beta_t KL + gamma CL + delta || T T' - I ||_F          (the last of prototypes, theirs)

KL is a mean over positions with a target, CL is weighed as Eq. 8 weighs its positives. The original's CL also contrasts
users of a batch, which would make the loss depend on how a batch is split; it keeps the positive among the
negatives, as here, which bounds CL from below. Two things keep it stable on deep encoders, where it was found not to
be. beta_t = beta min(1, t / warm-up steps): with all of KL from the start, mu collapses before states say anything.
And sigma = sigmoid(.), as in the original, is at most the prior's 1, begins near .05 in place of .5, and its
logarithm is computed as such, without a bound below that gradients would stop at.

Shapes: N tokens, M positives, d model width, A aspects of width w.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.baselines.aspects import AspectScore
from torchrec_priors.ops.keyed_dropout import DropoutKeys, keyed_dropout
from torchrec_priors.ops.keyed_noise import keyed_normal
from torchrec_priors.ops.softmax_attention import softmax_attention

_CONTRAST = 0.2  # temperature of CL
_FIRST_SPREAD = -3.0  # sigmoid of it is sigma at the start
_DROPOUT_SALT, _NOISE_SALT = 1 << 20, (1 << 20) + 1  # beyond those of encoders


@dataclass(frozen=True)
class Latent:
    """Users' aspects at every position: [N, A, w] each.

    Attributes:
        mean: mu.
        log_spread: log sigma.
        value: z; the mean outside training.
    """

    mean: Tensor
    log_spread: Tensor
    value: Tensor

    def divergence(self) -> Tensor:
        """KL: [N]."""
        each = self.mean.square() + (2 * self.log_spread).exp() - 1 - 2 * self.log_spread
        return 0.5 * each.sum(-1).mean(-1)


class AspectInference(nn.Module):
    """From an encoder's states to users' aspects."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.key, self.hidden, self.mean, self.spread = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.query_w = nn.Parameter(torch.zeros(width))  # v: at first all positions count alike
        for layer in (self.key, self.hidden, self.mean, self.spread):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.spread.bias, _FIRST_SPREAD)

    def forward(self, state_Nd: Tensor, offsets_B1: Tensor, score: AspectScore, keys: DropoutKeys | None) -> Latent:
        """
        Args:
            offsets_B1: int64, where each history begins; the last entry is N.
            score: of the items.
            keys: of dropout and noise, in training.
        """
        aspect_NAw = score.aspects(state_Nd)
        aspect_NAw = aspect_NAw * score.shares(aspect_NAw)[..., None]
        key_NAw = torch.tanh(self.key(aspect_NAw))
        query_NAw = (self.query_w * len(self.query_w) ** 0.5).expand_as(key_NAw)  # softmax_attention divides by it
        pooled_NAw = softmax_attention(query_NAw, key_NAw, aspect_NAw, offsets_B1)
        hidden_NAw = torch.tanh(self.norm(self.hidden(pooled_NAw)))
        hidden_NAw = keyed_dropout(hidden_NAw, keys, _DROPOUT_SALT, self.dropout)
        mean_NAw, log_spread_NAw = self.mean(hidden_NAw), F.logsigmoid(self.spread(hidden_NAw))
        if keys is None:
            return Latent(mean_NAw, log_spread_NAw, mean_NAw)
        noise_NAw = keyed_normal(keys, _NOISE_SALT, mean_NAw.shape[1:].numel(), mean_NAw.device).view_as(mean_NAw)
        return Latent(mean_NAw, log_spread_NAw, mean_NAw + log_spread_NAw.exp() * noise_NAw)


def contrast(value_MAw: Tensor, target_MAw: Tensor) -> Tensor:
    """CL of each positive: [M].

    Args:
        value_MAw: z of the position that predicts it.
        target_MAw: its own aspects.
    """
    value_MAw, target_MAw = (F.normalize(x, dim=-1) for x in (value_MAw, target_MAw))
    logit_MAA = target_MAw @ value_MAw.transpose(1, 2) / _CONTRAST  # target's aspect, user's aspect
    return -logit_MAA.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)
