"""The protocol of encoders, and the search for an encoder by name.

An encoder reads jagged histories and returns one state for every position. It is one Python file
with a function `load(config, dim, context, event_types)`. `encoder.backbone` is the name of a file
in this folder (without ".py") or the path of any other file.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from torchrec_priors.common.plugin import known_files, load_file
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.ops.keyed_dropout import DropoutKeys
from torchrec_priors.settings.encoder import EncoderConfig


@dataclass(frozen=True)
class Jagged:
    """B histories of N interactions in all, one after another.

    Attributes:
        vector_Nd: item vectors with side features added.
        offsets_B1: int64, first interaction of each history; the last entry is N.
        time_N: int64 milliseconds; None if unknown.
        event_N: int64 event codes; None if unknown.
        dropout: dropout keys in training, otherwise None.
    """

    vector_Nd: Tensor
    offsets_B1: Tensor
    time_N: Tensor | None = None
    event_N: Tensor | None = None
    dropout: DropoutKeys | None = None


class Encoder(Protocol):
    """An encoder is a module. `forward` must use every parameter, even if there are no histories.

    The reason is that ranks average gradients: a rank without histories must have a gradient for
    every parameter, too.
    """

    def __call__(self, histories: Jagged) -> Tensor:
        """Returns states, [N, d]. A state depends on its position and on earlier ones only."""
        ...


def load_encoder(config: EncoderConfig, dim: int, context: int, event_types: int) -> Encoder:
    """Returns a configuration's encoder, with initial values.

    Args:
        config: the section `encoder` of the configuration.
        dim: d.
        context: largest number of items in a history.
        event_types: number of event types of the data set.

    Raises:
        UserError: the backbone does not exist, or does not support a setting.
    """
    encoder: Encoder = _backbone(config.backbone).load(config, dim, context, event_types)
    return encoder


def _backbone(name: str) -> Any:
    """Returns the module of an encoder."""
    if name.endswith(".py"):
        arguments = ("config", "dim", "context", "event_types")
        return load_file(
            Path(name), option="encoder.backbone", function="load", arguments=arguments
        )

    known = known_files(Path(__file__).parent)
    if name not in known:
        raise UserError(f"encoder.backbone: there is no '{name}': {nearest(name, known)}")
    return importlib.import_module(f"{__package__}.{name}")
