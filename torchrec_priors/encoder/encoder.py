"""What an encoder is (jagged histories in, one state for every position out), and how it is found
by its name.

An encoder is one Python file with `load(config, dim, context, event_types)`. A file of this folder
is known by its name, any other file by its path.
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
    """A module; every parameter must take part in `forward`, also if there are no histories.

    Ranks average gradients, so a rank without histories must have one for every parameter.
    """

    def __call__(self, histories: Jagged) -> Tensor:
        """[N, d] states; a state depends only on its position and earlier ones of its history."""
        ...


def load_encoder(config: EncoderConfig, dim: int, context: int, event_types: int) -> Encoder:
    """The encoder of a configuration with its first values.

    Args:
        dim: d.
        context: most items of a history.
        event_types: number of event types of the data set.

    Raises:
        UserError: no such backbone, or settings it cannot have.
    """
    encoder: Encoder = _backbone(config.backbone).load(config, dim, context, event_types)
    return encoder


def _backbone(name: str) -> Any:
    if name.endswith(".py"):
        arguments = ("config", "dim", "context", "event_types")
        return load_file(
            Path(name), option="encoder.backbone", function="load", arguments=arguments
        )

    known = known_files(Path(__file__).parent)
    if name not in known:
        raise UserError(f"encoder.backbone: there is no '{name}': {nearest(name, known)}")
    return importlib.import_module(f"{__package__}.{name}")
