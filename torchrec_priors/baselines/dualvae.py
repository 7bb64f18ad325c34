"""DualVAE on sequences: users and items have several aspects, and those of users are inferred.

Guo et al., "DualVAE: Dual Disentangled Variational AutoEncoder for Recommendation", SDM 2024.

The original alternates between reconstructing the rows and the columns of a user-item matrix, from
latent variables of users and items. Here a user is a history that predicts its next items, and only
items have a table. The authors of the paper on human priors (docs/how-it-works.md names it)
adapted the original's four parts in this way, for position n of a history:

    attention-aware dual disentanglement (`aspects.py`): x_ja = (s_j W + b)_a for the encoder's
        states s_j, with the shares c_ja of x_ja; a sum over the history instead of a user's items
        f_na = sum over j <= n of softmax_j(v . tanh(U c_ja x_ja)) c_ja x_ja
    disentangled variational inference, with a network that all aspects share
        h = dropout(tanh(norm(f_na W_1 + b_1)));  mu = h W_m + b_m;  sigma = sigmoid(h W_s + b_s)
        z_na = mu + sigma eps, eps ~ N(0, 1), in training; mu at retrieval
        KL = mean_a 1/2 sum_w (mu^2 + sigma^2 - 1 - 2 log sigma)                  against N(0, 1)
    joint generation: sum_a c_ia z_na . x_ia is the score of item i (`aspects.py`). The likelihood
        is a softmax over many negatives, as for the other models of this package, instead of a
        Poisson likelihood of the row
    neighbourhood-enhanced constraint, with a target i instead of the reconstructed neighbours
        CL = mean_a -log( e^{cos(z_na, x_ia) / .2} / sum_b e^{cos(z_nb, x_ia) / .2} )

    loss = softmax (Eq. 8) + beta_t KL + gamma CL + delta || T T' - I ||_F

The last term, with the prototypes T, is part of the adaptation, not of the original. KL is a mean
over positions with a target, and CL has the weights of positives in Eq. 8. In the original, CL also
contrasts the users of a batch with each other. Here the loss would then depend on how a batch is
split. As in the original, the positive is among the negatives, which bounds CL from below.

With deep encoders, training was found to be unstable. Two changes make it stable:

- beta_t = beta min(1, t / kl_steps). With the whole KL from the start, mu collapses before states
  contain information.
- sigma = sigmoid(.), as in the original, is at most 1, the sigma of the prior. But it starts near
  .05 instead of .5, and its logarithm is computed as a log-sigmoid, without a lower bound that
  would stop gradients.

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
_FIRST_SPREAD = -3.0  # its sigmoid is the initial sigma

# These salts are larger than those of encoder layers, so no random number is used twice.
_DROPOUT_SALT = 1 << 20
_NOISE_SALT = (1 << 20) + 1


@dataclass
class Options:
    """The options of DualVAE.

    The default weights are among those that were tried for the paper on human priors.

    Attributes:
        aspects: A, the number of aspects.
        width: w, the width of each aspect.
        dropout: probability of dropout of h.
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
                f"baseline.options.aspects = {self.aspects} must be at most the width of an "
                f"aspect, {self.width}: otherwise the prototypes cannot be orthogonal"
            )


@dataclass(frozen=True)
class Latent:
    """The aspects of users at every position; each tensor is [N, A, w].

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

        # The initial values of a seed depend on the order of these layers and draws.
        self.key = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.mean = nn.Linear(width, width)
        self.spread = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.query_w = nn.Parameter(
            torch.zeros(width)
        )  # v: with 0, all positions have equal weight

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
            offsets_B1: int64, first token of each history; the last entry is N.
            score: the score of the items, which also has the projection to aspects.
            keys: keys of dropout and noise in training; None for neither.
        """
        aspect_NAw = score.aspects(state_Nd)
        aspect_NAw = aspect_NAw * score.shares(aspect_NAw)[..., None]

        # `softmax_attention` divides by sqrt(w), which the equation does not contain.
        key_NAw = torch.tanh(self.key(aspect_NAw))
        query_NAw = (self.query_w * len(self.query_w) ** 0.5).expand_as(key_NAw)
        pooled_NAw = softmax_attention(query_NAw, key_NAw, aspect_NAw, offsets_B1)

        hidden_NAw = torch.tanh(self.norm(self.hidden(pooled_NAw)))
        hidden_NAw = keyed_dropout(hidden_NAw, keys, _DROPOUT_SALT, self.dropout)

        mean_NAw = self.mean(hidden_NAw)
        log_spread_NAw = F.logsigmoid(self.spread(hidden_NAw))
        if keys is None:
            return Latent(mean_NAw, log_spread_NAw, mean_NAw)

        # The noise depends only on the keys of histories, so it does not change if a batch is split
        # in another way.
        numbers = mean_NAw.shape[1:].numel()
        noise_NAw = keyed_normal(keys, _NOISE_SALT, numbers, mean_NAw.device).view_as(mean_NAw)
        return Latent(mean_NAw, log_spread_NAw, mean_NAw + log_spread_NAw.exp() * noise_NAw)


def contrast(value_MAw: Tensor, target_MAw: Tensor) -> Tensor:
    """Returns CL of each positive, [M].

    Args:
        value_MAw: z of the position that predicts each positive.
        target_MAw: aspects x of each positive.
    """
    value_MAw = F.normalize(value_MAw, dim=-1)
    target_MAw = F.normalize(target_MAw, dim=-1)

    # [M, target's aspect, user's aspect]
    logit_MAA = target_MAw @ value_MAw.transpose(1, 2) / _CONTRAST
    return -logit_MAA.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)


class DualVAE(nn.Module):
    """DualVAE: it computes one query of A w numbers per position, and creates the score for it."""

    def __init__(self, dim: int, options: Options) -> None:
        super().__init__()
        self.dim = dim
        self.options = options
        self.inference = AspectInference(options.width, options.dropout)

        # The score is in a list, so that it is not registered here: the model already registers it.
        self._score: list[AspectScore] = []

    def new_score(self, kind: ScoreKind) -> AspectScore:
        """Returns the model's score, and keeps it to compute the aspects of histories."""
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

        # The overlap is the same at every position. As a part of the mean over positions, it counts
        # exactly once in the sum over ranks.
        beta = options.kl * min(1.0, learning.step / options.kl_steps)
        divergence_Q = latent.divergence()[learning.token_Q]
        mean_term = learning.mean(beta * divergence_Q + options.orthogonality * score.overlap())

        contrast_M = contrast(value_QAw[positives.query_M], target_MAw)
        contrast_term = (positives.weight_M * contrast_M).sum()

        return learning.of_positions(value_QAw.flatten(1)).plus(
            mean_term + options.contrast * contrast_term
        )


def queries(config: BaselineConfig) -> int:
    """Returns 1: the aspects are parts of one score."""
    return 1


def load(config: BaselineConfig, dim: int, context: int) -> DualVAE:
    """Returns DualVAE with initial values."""
    options = read_options(Options, config)
    options.check()
    if config.interests != BaselineConfig.interests:
        raise UserError(
            f"baseline.interests = {config.interests} has no effect with dualvae, which has one "
            "query with several aspects: set baseline.options.aspects"
        )
    return DualVAE(dim, options)
