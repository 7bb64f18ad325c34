"""An encoder without layers: the sum of item vectors and positions, normalised.

    state = dropout(norm(item + position))

It is the encoder of DualVAE, which then pools the states.
"""

import logging

from torch import Tensor, nn

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import keyed_dropout
from torchrec_priors.settings.encoder import EncoderConfig

log = logging.getLogger(__name__)


class Shallow(nn.Module):
    """The encoder, from [N, d] to [N, d]; each position is computed separately."""

    def __init__(self, dim: int, context: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.position = nn.Embedding(context, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, histories: Jagged) -> Tensor:
        """Returns states, [N, d].

        Raises:
            ValueError: a history is longer than the configured context.
        """
        vector_Nd = histories.vector_Nd
        position_N = positions(histories.offsets_B1, len(vector_Nd), self.position.num_embeddings)
        state_Nd = self.norm(vector_Nd + self.position(position_N))
        return keyed_dropout(state_Nd, histories.dropout, 0, self.dropout)


def load(config: EncoderConfig, dim: int, context: int, event_types: int) -> Shallow:
    """Returns the encoder without layers. It has no options and reads only items."""
    if config.options:
        raise UserError(
            f"encoder.options: shallow has no options: remove '{next(iter(config.options))}'"
        )
    for name in ("time_bias", "events", "recompute"):
        if getattr(config, name):
            raise UserError(
                f"encoder.{name}: shallow has no layers and reads only items: set it to false"
            )
    config.check(dim)
    log.info("encoder.layers, encoder.heads have no effect: shallow has none")
    return Shallow(dim, context, config.dropout)
