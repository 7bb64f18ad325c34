"""DualVAE on sequences: users and items in several aspects, with variational inference of users'.

Guo et al., "DualVAE: Dual Disentangled Variational AutoEncoder for Recommendation", SDM 2024.

The original reconstructs whole rows and columns of a matrix of users and items, in turns, from
latent variables of users and of items. Users here are histories, which predict the next items from
one table of items. So its four parts become, for position n of a history, as the authors of the
human priors' paper adapted it:

    attention-aware dual disentanglement (`aspects.py`): x_ja = (s_j W + b)_a of the encoder's
        states s_j, with c_ja of x_ja; a sum over the history instead of a user's items
        f_na = sum over j <= n of softmax_j(v . tanh(U c_ja x_ja)) c_ja x_ja
    disentangled variational inference, with a network that all aspects share
        h = dropout(tanh(norm(f_na W_1 + b_1)));  mu = h W_m + b_m;  sigma = sigmoid(h W_s + b_s)
        z_na = mu + sigma eps, eps ~ N(0, 1), in training; mu at retrieval
        KL = mean_a 1/2 sum_w (mu^2 + sigma^2 - 1 - 2 log sigma)                  against N(0, 1)
    joint generation: sum_a c_ia z_na . x_ia is item i's score (`aspects.py`), with the likelihood
        of the other models here, a softmax over many negatives, instead of a Poisson likelihood of
        the row
    neighbourhood-enhanced constraint, of a target i instead of the reconstructed neighbours
        CL = mean_a -log( e^{cos(z_na, x_ia) / .2} / sum_b e^{cos(z_nb, x_ia) / .2} )

    loss = softmax (Eq. 8) + beta_t KL + gamma CL + delta || T T' - I ||_F

The last term, of the prototypes T, is the adaptation's. KL is a mean over positions with a target;
CL has Eq. 8's weights of positives. The original's CL also contrasts users of a batch, which would
make the loss depend on how a batch is split; it keeps the positive among the negatives, as here,
which bounds CL from below.

Two things keep it stable on deep encoders, where it was found to be unstable:

- beta_t = beta min(1, t / kl_steps): with all of KL from the start, mu collapses before states
  carry information.
- sigma = sigmoid(.), as in the original, is at most the prior's 1. It begins near .05 instead of
  .5, and its logarithm is computed as a log-sigmoid, without a lower bound that would stop
  gradients.

Shapes: N tokens, M positives, Q positions, d model width, A aspects of width w.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.baselines.aspects import AspectScore
from torchrec_priors.baselines.baseline import read_options
from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import DropoutKeys, keyed_dropout
from torchrec_priors.ops.keyed_noise import keyed_normal
from torchrec_priors.ops.softmax_attention import softmax_attention
from torchrec_priors.settings.baseline import BaselineConfig
from torchrec_priors.settings.model import ScoreKind

_CONTRAST = 0.2  # temperature of CL
_FIRST_SPREAD = -3.0  # its sigmoid is sigma at the start

# Larger than the salts of encoders' layers, so no draw is used twice.
_DROPOUT_SALT = 1 << 20
_NOISE_SALT = (1 << 20) + 1


@dataclass
class Options:
    """Settings; the weights' defaults are among those that the human priors' paper searched.

    Attributes:
        aspects: A.
        width: w, the width of each aspect.
        dropout: dropout of h.
        kl: beta.
        kl_steps: number of steps over which beta grows from 0.
        contrast: gamma.
        orthogonality: delta.
    """

    aspects: int = 5
    width: int = 32
    dropout: float = 0.1
    kl: float = 0.01
    kl_steps: int = 500
    contrast: float = 0.01
    orthogonality: float = 0.1

    def check(self) -> None:
        """Raises UserError if a value is out of range."""
        for name in ("aspects", "width", "kl_steps"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"baseline.options.{name} = {value} must be at least 1")

        for name in ("kl", "contrast", "orthogonality"):
            value = getattr(self, name)
            if value < 0:
                raise UserError(f"baseline.options.{name} = {value} must not be negative")

        if not 0 <= self.dropout < 1:
            raise UserError(f"baseline.options.dropout = {self.dropout} must be in [0, 1)")
        if self.aspects > self.width:
            raise UserError(
                f"baseline.options.aspects = {self.aspects} must be at most the width of each, "
                f"{self.width}, or no prototypes are orthogonal"
            )


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
        """Returns KL, [N]."""
        terms_NAw = self.mean.square() + (2 * self.log_spread).exp() - 1 - 2 * self.log_spread
        return 0.5 * terms_NAw.sum(-1).mean(-1)


class AspectInference(nn.Module):
    """Infers users' aspects from an encoder's states."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

        # The order of these layers and draws decides the first values of a seed.
        self.key = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.mean = nn.Linear(width, width)
        self.spread = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.query_w = nn.Parameter(torch.zeros(width))  # v: at first all positions count alike

        for layer in (self.key, self.hidden, self.mean, self.spread):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.spread.bias, _FIRST_SPREAD)

    def forward(
        self, state_Nd: Tensor, offsets_B1: Tensor, score: AspectScore, keys: DropoutKeys | None
    ) -> Latent:
        """Returns the aspects of every position.

        Args:
            state_Nd: the encoder's states of histories, one after another.
            offsets_B1: int64, where each history begins; the last entry is N.
            score: the score of the items, which has the aspects' projection.
            keys: keys of dropout and noise in training; None draws nothing.
        """
        aspect_NAw = score.aspects(state_Nd)
        aspect_NAw = aspect_NAw * score.shares(aspect_NAw)[..., None]

        # softmax_attention divides by sqrt(w), which the equation has not.
        key_NAw = torch.tanh(self.key(aspect_NAw))
        query_NAw = (self.query_w * len(self.query_w) ** 0.5).expand_as(key_NAw)
        pooled_NAw = softmax_attention(query_NAw, key_NAw, aspect_NAw, offsets_B1)

        hidden_NAw = torch.tanh(self.norm(self.hidden(pooled_NAw)))
        hidden_NAw = keyed_dropout(hidden_NAw, keys, _DROPOUT_SALT, self.dropout)

        mean_NAw = self.mean(hidden_NAw)
        log_spread_NAw = F.logsigmoid(self.spread(hidden_NAw))
        if keys is None:
            return Latent(mean_NAw, log_spread_NAw, mean_NAw)

        # Noise follows from the histories' keys, not from a generator's state: it does not depend
        # on how a batch is split.
        numbers = mean_NAw.shape[1:].numel()
        noise_NAw = keyed_normal(keys, _NOISE_SALT, numbers, mean_NAw.device).view_as(mean_NAw)
        return Latent(mean_NAw, log_spread_NAw, mean_NAw + log_spread_NAw.exp() * noise_NAw)


def contrast(value_MAw: Tensor, target_MAw: Tensor) -> Tensor:
    """Returns CL of each positive, [M].

    Args:
        value_MAw: z of the position that predicts each positive.
        target_MAw: the aspects of each positive.
    """
    value_MAw = F.normalize(value_MAw, dim=-1)
    target_MAw = F.normalize(target_MAw, dim=-1)

    # [M, target's aspect, user's aspect]
    logit_MAA = target_MAw @ value_MAw.transpose(1, 2) / _CONTRAST
    return -logit_MAA.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)


class DualVAE(nn.Module):
    """A query of A w numbers for each position, and the score that takes it."""

    def __init__(self, dim: int, options: Options) -> None:
        super().__init__()
        self.dim = dim
        self.options = options
        self.inference = AspectInference(options.width, options.dropout)

        # In a list, so it is not registered as a module: its parameters are the model's.
        self._score: list[AspectScore] = []

    def new_score(self, kind: ScoreKind) -> AspectScore:
        """Returns the model's score, which also gives the aspects of histories."""
        self._score[:] = [AspectScore(kind, self.dim, self.options.aspects, self.options.width)]
        return self._score[0]

    def infer(self, states: Jagged) -> Latent:
        """Returns the aspects of every position."""
        return self.inference(states.vector_Nd, states.offsets_B1, self._score[0], states.dropout)

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns z of positions, [Q, 1, A w]."""
        return self.infer(states).value[token_Q].flatten(1)[:, None]

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """Returns the loss with all its terms."""
        latent = self.infer(states)
        options = self.options
        score = self._score[0]

        value_QAw = latent.value[learning.token_Q]
        positives = learning.positives
        target_MAw = score.aspects(learning.vector_Xd[positives.source_M])

        # The overlap is the same at every position, so its mean over positions is itself: as a part
        # of the mean it is counted once over all ranks.
        beta = options.kl * min(1.0, learning.step / options.kl_steps)
        divergence_Q = latent.divergence()[learning.token_Q]
        of_positions = learning.mean(beta * divergence_Q + options.orthogonality * score.overlap())

        contrast_M = contrast(value_QAw[positives.query_M], target_MAw)
        of_targets = (positives.weight_M * contrast_M).sum()

        return learning.of_positions(value_QAw.flatten(1)).plus(
            of_positions + options.contrast * of_targets
        )


def queries(config: BaselineConfig) -> int:
    """Returns 1: the aspects are parts of one score."""
    return 1


def load(config: BaselineConfig, dim: int, context: int) -> DualVAE:
    """Builds DualVAE with its first values."""
    options = read_options(Options, config)
    options.check()
    if config.interests != BaselineConfig.interests:
        raise UserError(
            f"baseline.interests = {config.interests} means nothing to dualvae, whose one query "
            "has several aspects: set baseline.options.aspects"
        )
    return DualVAE(dim, options)
