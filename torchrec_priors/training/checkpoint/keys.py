"""What a checkpoint holds and under which names: the only place that says so.

To add a value that training counts, add an attribute with a default to `Progress`, and count it
next to `progress.step += 1` in `training/loop.py`. It must be the same on every rank: a number of
this rank's part of a batch is summed by the all-reduce of `training/step.py`. To add the state of
an object, add its key, its first format in `SINCE`, and the object to `parts_of`. Either way raise
`FORMAT`: checkpoints of earlier formats still load, and earlier releases reject new ones.

The format's number is in `checksums.json`:

1  no number, and no checksum of `checksums.json`
2  a number and a checksum in `checksums.json`; the tensors are those of format 1
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from torchrec_priors.training.build import Built
from torchrec_priors.training.optimizers import Optimizers

FORMAT = 2  # of new checkpoints, and the newest that can be read
NUMBERED_SINCE = 2  # the first format with a number

# The files of a checkpoint's folder.
MANIFEST = "checksums.json"
DCP_METADATA = ".metadata"
# Checkpoints of versions without checksums have other names, so a missing manifest is noticed.
DATA_FILES = "rank-*.distcp"

# The keys of the manifest. The number keeps its key in all formats, so any release can read it.
FORMAT_NUMBER = "format"
FILES = "files"

# The keys of the state, and the first format that has each.
MODEL = "model"
OPTIMIZERS = "optimizers"
PROGRESS = "progress"
SINCE = {MODEL: 1, OPTIMIZERS: 1, PROGRESS: 1}

State = dict[str, Any]


class Part(Protocol):
    """Something whose state a checkpoint holds under one key."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass
class Progress:
    """How far training has come. A checkpoint holds it as one float64 tensor.

    New attributes go to the end, as the tensor has no names, and have a default, which stays if an
    earlier checkpoint is loaded.

    Attributes:
        step: the number of completed steps.
        best: the best validation ndcg@10 so far; -1 before the first evaluation.
        best_step: the number of completed steps at that evaluation.
        without_gain: the number of evaluations since.
    """

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    without_gain: int = 0

    def state_dict(self) -> Tensor:
        """Returns the values in the order of the attributes."""
        return torch.tensor(dataclasses.astuple(self), dtype=torch.float64)

    def load_state_dict(self, state: Tensor, /) -> None:
        """Takes the values that `state` has; attributes that it lacks stay as they are."""
        for field, value in zip(dataclasses.fields(self), state.tolist(), strict=False):
            # The type of an attribute is that of its default: float64 holds steps without loss.
            kind: Any = type(field.default)
            setattr(self, field.name, kind(value))


def parts_of(built: Built, optimizers: Optimizers, progress: Progress) -> dict[str, Part]:
    """Returns everything that a checkpoint holds, by the key of its state."""
    return {MODEL: built.parallel, OPTIMIZERS: optimizers.all, PROGRESS: progress}


def parts_in_format(parts: dict[str, Part], number: int) -> dict[str, Part]:
    """Returns the parts that a checkpoint of format `number` has."""
    return {key: part for key, part in parts.items() if SINCE[key] <= number}


def state_of(parts: dict[str, Part]) -> State:
    """Returns the state of the parts, to be saved or to be loaded into."""
    return {key: part.state_dict() for key, part in parts.items()}


def fit_progress(state: State, metadata: Metadata) -> None:
    """Cuts the progress in `state` to the values that an earlier checkpoint has.

    Args:
        metadata: that of the checkpoint to be loaded.
    """
    # A tensor can only be loaded into one of its own size.
    saved = metadata.state_dict_metadata.get(PROGRESS)
    if isinstance(saved, TensorStorageMetadata):
        state[PROGRESS] = state[PROGRESS][: saved.size[0]]


def key_in_model(name: str) -> str:
    """Returns the key of a parameter or buffer of the model.

    >>> key_in_model("gate.weight")
    'model.gate.weight'
    """
    return f"{MODEL}.{name}"


def key_in_optimizers(parameter: str, name: str) -> str:
    """Returns the key of one value that an optimizer keeps for a parameter."""
    return f"{OPTIMIZERS}.state.{parameter}.{name}"
