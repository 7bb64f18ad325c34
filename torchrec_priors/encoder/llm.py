"""A language model over item vectors: the user LLM of HLLM (Chen et al., arXiv 2409.12740).

Any decoder of `transformers` reads the item vectors of a history in place of the vectors of words.
Its last hidden state at each position is the user's state. There is no table of words, and no
layer that predicts words.

All windows of a batch are packed in one row, without padding (`packed_windows.py`).

If the width of the item vectors differs from that of the language model, one linear layer maps the
vectors to the model's width, and another maps the states back.

Shapes: N tokens, d width of items and states, h width of the language model.
"""

import logging
from pathlib import Path

from torch import Tensor, nn

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.language_model import make_language_model
from torchrec_priors.encoder.packed_windows import (
    check_windows,
    read_windows,
    recompute_layers,
)
from torchrec_priors.encoder.safetensors_folder import take_weights
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import keyed_dropout
from torchrec_priors.settings.encoder import EncoderConfig

log = logging.getLogger(__name__)


class LLM(nn.Module):
    """The encoder: it turns item vectors of jagged histories into one state for every position."""

    def __init__(self, config: EncoderConfig, dim: int, context: int, event_types: int = 0) -> None:
        """
        Args:
            config: the section `encoder` of the configuration.
            dim: d.
            context: largest number of items in a history.
            event_types: number of event types of the data set; needed if `config.events` is true.

        Raises:
            UserError: the language model cannot be built, or cannot read packed histories.
        """
        super().__init__()
        self.context = context
        self.dropout = config.dropout
        self.model, self.word_table = make_language_model(config.llm, context)
        width = self.model.config.hidden_size
        if config.recompute:
            recompute_layers(self.model, "encoder.recompute")

        self.event = nn.Embedding(event_types, dim) if config.events else None
        self.project_in = nn.Linear(dim, width) if dim != width else nn.Identity()
        self.project_out = nn.Linear(width, dim) if dim != width else nn.Identity()

        # The initial projections keep the size of each number.
        for layer in (self.project_in, self.project_out):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
        if self.event is not None:
            nn.init.normal_(self.event.weight, std=0.02)

        # On the meta device there are no values to compute with.
        if not next(self.model.parameters()).is_meta:
            check_windows(self.model, "encoder.llm", context)

    def forward(self, histories: Jagged) -> Tensor:
        """Returns states, [N, d]. Position i has seen items 0 to i of its history.

        Raises:
            ValueError: a history is longer than the configured context.
        """
        vector_Nd = histories.vector_Nd
        if self.event is not None and histories.event_N is not None:
            vector_Nd = vector_Nd + self.event(histories.event_N)
        vector_Nd = keyed_dropout(vector_Nd, histories.dropout, 0, self.dropout)

        # The layers' inputs stay in full precision under autocast, with and without a projection.
        input_Nh = self.project_in(vector_Nd).to(vector_Nd.dtype)
        hidden_Nh = read_windows(self.model, input_Nh, histories.offsets_B1, self.context)
        state_Nd: Tensor = self.project_out(hidden_Nh)
        return state_Nd

    def take_weights(self, folder: Path) -> None:
        """Sets the language model's initial values to the weights of a folder.

        Raises:
            UserError: the folder has no safetensors, or not all weights of the model.
        """
        take_weights(folder, self.model, self.word_table)


def load(config: EncoderConfig, dim: int, context: int, event_types: int) -> LLM:
    """Returns a language model with random initial values. It has no options and no time bias."""
    if config.options:
        raise UserError(
            f"encoder.options: llm has no options: remove '{next(iter(config.options))}'"
        )
    if config.time_bias:
        raise UserError("encoder.time_bias: llm has no bias of time: set it to false")
    log.info("encoder.layers, encoder.heads have no effect: encoder.llm has its own sizes")
    return LLM(config, dim, context, event_types)
