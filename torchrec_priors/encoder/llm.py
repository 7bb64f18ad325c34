"""A language model over item vectors: the user LLM of HLLM (Chen et al., arXiv 2409.12740).

Any decoder of `transformers` reads the item vectors of a history in place of the vectors of words.
Its last hidden state at each position is the user's state. There is no table of words, and no
layer that predicts words.

All windows of a batch are packed in one row, without padding. Positions restart at 0 in each
window, and attention stays within a window (`window_attention.py`).

If the width of the item vectors differs from that of the language model, one linear layer maps the
vectors to the model's width, and another maps the states back.

Shapes: N tokens, d width of items and states, h width of the language model.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.language_model import make_language_model
from torchrec_priors.encoder.positions import positions
from torchrec_priors.encoder.safetensors_folder import take_weights
from torchrec_priors.errors import UserError
from torchrec_priors.ops.keyed_dropout import keyed_dropout
from torchrec_priors.ops.softmax_attention import attention_chunks
from torchrec_priors.settings.encoder import EncoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
            _recompute(self.model)

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
            self._check_windows()

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
        state_Nd: Tensor = self.project_out(self._read(input_Nh, histories.offsets_B1))
        return state_Nd

    def take_weights(self, folder: Path) -> None:
        """Sets the language model's initial values to the weights of a folder.

        Raises:
            UserError: the folder has no safetensors, or not all weights of the model.
        """
        take_weights(folder, self.model, self.word_table)

    def _read(self, input_Nh: Tensor, offsets_B1: Tensor) -> Tensor:
        """Returns the last hidden state of each position, [N, h]."""
        tokens = len(input_Nh)
        if not tokens:
            # Models of transformers cannot read nothing. One vector, whose state is left out, gives
            # every parameter a gradient of zero.
            input_Nh = torch.cat([input_Nh, input_Nh.new_zeros(1, input_Nh.shape[1])])
            offsets_B1 = torch.tensor([0, 1], device=offsets_B1.device)

        position_N = positions(offsets_B1, len(input_Nh), self.context)
        output = self.model(
            inputs_embeds=input_Nh[None],
            position_ids=position_N[None],
            use_cache=False,
            windows=attention_chunks(offsets_B1),
        )
        hidden_Nh: Tensor = output.last_hidden_state[0, :tokens]
        return hidden_Nh

    @torch.no_grad()
    def _check_windows(self) -> None:
        """Checks that a window sees nothing of other windows, and no position sees later ones.

        Attention is ours, but a model may also mix positions in other ways, for example by
        convolutions. So it reads two windows twice, and only what must not matter differs.

        Raises:
            UserError: the model mixes windows or positions, or cannot read vectors.
        """
        width = self.model.config.hidden_size
        first_Nh = torch.linspace(-1, 1, 5 * width).sin().view(5, width)
        second_Nh = first_Nh.clone()
        second_Nh[[0, 1, 4]] = first_Nh[[0, 1, 4]].flip(1)  # the window before, the last position
        offsets_B1 = torch.tensor([0, 2, 5])

        was_training = self.model.training
        self.model.eval()
        try:
            states = [self._read(input_Nh, offsets_B1)[2:4] for input_Nh in (first_Nh, second_Nh)]
        except UserError:
            raise
        # Models of transformers raise whatever their code runs into.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"encoder.llm: a {self.model.config.model_type} cannot read vectors in place of "
                f"words ({reason}): use another model_type"
            ) from error
        finally:
            self.model.train(was_training)
        if not torch.equal(*states):
            raise UserError(
                f"encoder.llm: a {self.model.config.model_type} mixes positions outside of "
                "attention, so histories cannot be packed: use another model_type"
            )


def _recompute(model: "PreTrainedModel") -> None:
    """Makes the layers of a model compute their results again in the backward pass.

    Raises:
        UserError: the model does not support it.
    """
    # Dropout is off inside the model, so no generator's state needs to be kept.
    keep_nothing = {"use_reentrant": False, "preserve_rng_state": False}
    try:
        model.activation_checkpointing_enable(keep_nothing)
    except ValueError as error:
        raise UserError(
            f"encoder.recompute: a {model.config.model_type} does not support it: set it to false"
        ) from error


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
