"""Reads packed windows of vectors with a decoder of `transformers`.

All windows are in one row, one after another, without padding. Positions restart at 0 in each
window, and attention stays within a window (`window_attention.py`).

Shapes: N vectors in B windows, h width of the language model.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchrec_priors.encoder.positions import positions
from torchrec_priors.errors import UserError
from torchrec_priors.ops.softmax_attention import attention_chunks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_windows(
    model: "PreTrainedModel", input_Nh: Tensor, offsets_B1: Tensor, longest: int
) -> Tensor:
    """Returns the last hidden state of each vector, [N, h]. It has seen those before it.

    Args:
        model: the decoder.
        input_Nh: the vectors of all windows.
        offsets_B1: int64, bounds of the windows.
        longest: the largest number of vectors of a window.

    Raises:
        ValueError: a window is longer.
    """
    tokens = len(input_Nh)
    if not tokens:
        # Models of transformers cannot read nothing. One vector, whose state is left out, gives
        # every parameter a gradient of zero.
        input_Nh = torch.cat([input_Nh, input_Nh.new_zeros(1, input_Nh.shape[1])])
        offsets_B1 = torch.tensor([0, 1], device=offsets_B1.device)

    position_N = positions(offsets_B1, len(input_Nh), longest)
    output = model(
        inputs_embeds=input_Nh[None],
        position_ids=position_N[None],
        use_cache=False,
        windows=attention_chunks(offsets_B1),
    )
    hidden_Nh: Tensor = output.last_hidden_state[0, :tokens]
    return hidden_Nh


@torch.no_grad()
def check_windows(model: "PreTrainedModel", key: str, longest: int) -> None:
    """Checks that a window sees nothing of other windows, and no position sees later ones.

    Attention is ours, but a model may also mix positions in other ways, for example by
    convolutions. So it reads two windows twice, and only what must not matter differs.

    Args:
        model: the decoder.
        key: the name of the section that describes it.
        longest: the largest number of vectors of a window.

    Raises:
        UserError: the model mixes windows or positions, or cannot read vectors.
    """
    width = model.config.hidden_size
    first_Nh = torch.linspace(-1, 1, 5 * width).sin().view(5, width)
    second_Nh = first_Nh.clone()
    second_Nh[[0, 1, 4]] = first_Nh[[0, 1, 4]].flip(1)  # the window before, the last position
    offsets_B1 = torch.tensor([0, 2, 5])

    was_training = model.training
    model.eval()
    try:
        states = [
            read_windows(model, input_Nh, offsets_B1, max(longest, 3))[2:4]
            for input_Nh in (first_Nh, second_Nh)
        ]
    except UserError as error:
        # The attention function does not know which language model calls it.
        raise UserError(str(error).replace("encoder.llm", key)) from error
    # Models of transformers raise whatever their code runs into.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{key}: a {model.config.model_type} cannot read vectors in place of words ({reason}): "
            "use another model_type"
        ) from error
    finally:
        model.train(was_training)
    if not torch.equal(*states):
        raise UserError(
            f"{key}: a {model.config.model_type} mixes positions outside of attention, so windows "
            "cannot be packed: use another model_type"
        )


def recompute_layers(model: "PreTrainedModel", setting: str) -> None:
    """Makes the layers of a model compute their results again in the backward pass.

    Args:
        model: the decoder.
        setting: the setting that asks for it.

    Raises:
        UserError: the model does not support it.
    """
    # Dropout is off inside the model, so no generator's state needs to be kept.
    keep_nothing = {"use_reentrant": False, "preserve_rng_state": False}
    try:
        model.activation_checkpointing_enable(keep_nothing)
    except ValueError as error:
        raise UserError(
            f"{setting}: a {model.config.model_type} does not support it: set it to false"
        ) from error
