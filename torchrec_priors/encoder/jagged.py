"""What every encoder takes: histories one after another, and what is known of each interaction besides its item."""

from dataclasses import dataclass

from torch import Tensor

from torchrec_priors.ops.keyed_dropout import DropoutKeys


@dataclass(frozen=True)
class Jagged:
    """B histories of N interactions in all; an encoder turns them into [N, d] states.

    Attributes:
        vector_Nd: item vectors (and whatever side features were added to them).
        offsets_B1: int64, where each history begins; the last entry is N.
        time_N: int64 milliseconds; None where they are unknown.
        event_N: int64 event codes; None where they are unknown.
        dropout: dropout keys in training, None otherwise.
    """

    vector_Nd: Tensor
    offsets_B1: Tensor
    time_N: Tensor | None = None
    event_N: Tensor | None = None
    dropout: DropoutKeys | None = None
