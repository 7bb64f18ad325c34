"""Defines what a checkpoint contains, and the keys of its contents. No other file defines this.

To add a value that training counts:

1. Add an attribute with a default to `Progress`.
2. Count it next to `progress.step += 1` in `training/loop.py`. The value must be the same on every
   rank. If it depends on this rank's part of a batch, sum it in the all-reduce of
   `training/step.py`.
3. Raise `FORMAT`.

To add the state of an object:

1. Add a key for it. Add the key to `SINCE`, with the first format that has it.
2. Add the object to `parts_of`. It must be an attribute of `Built` or `Optimizers`; for any other
   object, extend `Checkpoints.save` and `resume`, and their calls in `loop.py` and `trainer.py`.
3. Raise `FORMAT`.

Checkpoints of earlier formats can still be loaded, and earlier releases reject the new format.

The format's number is in `checksums.json`:

1  no number, and no checksum of `checksums.json`
2  a number and a checksum in `checksums.json`; the same tensors as in format 1
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from torchrec_priors.training.built import Built
from torchrec_priors.training.optimizers import Optimizers

FORMAT = 2  # the format of new checkpoints, and the latest that can be read
NUMBERED_SINCE = 2  # the first format that has a number in `checksums.json`

# The files of a checkpoint's folder.
MANIFEST = "checksums.json"
DCP_METADATA = ".metadata"
# In versions without checksums, data files had other names. So if files have these names, there
# must be a manifest.
DATA_FILES = "rank-*.distcp"

# The keys of the manifest. All formats have the number under the same key, so that every release
# can read it.
FORMAT_NUMBER = "format"
FILES = "files"

# The keys of the state, and for each key the first format that has it.
MODEL = "model"
OPTIMIZERS = "optimizers"
PROGRESS = "progress"
SINCE = {MODEL: 1, OPTIMIZERS: 1, PROGRESS: 1}

State = dict[str, Any]


class Part(Protocol):
    """An object whose state a checkpoint contains under one key."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass
class Progress:
    """The progress of training. A checkpoint contains it as one float64 tensor.

    The tensor has no names, so new attributes must be added at the end. They need a default, which
    stays if a checkpoint without them is loaded.

    Attributes:
        step: the number of completed steps.
        best: the best validation ndcg@10 so far; -1 before the first evaluation.
        best_step: the number of completed steps at the best evaluation.
        without_gain: the number of evaluations since the best one.
    """

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    without_gain: int = 0

    def state_dict(self) -> Tensor:
        """Returns the values in the order of the attributes."""
        return torch.tensor(dataclasses.astuple(self), dtype=torch.float64)

    def load_state_dict(self, state: Tensor, /) -> None:
        """Sets the attributes from a tensor; those that the tensor lacks stay as they are."""
        for field, value in zip(dataclasses.fields(self), state.tolist(), strict=False):
            # An attribute has the type of its default. Integers below 2^53, such as steps, are
            # exact as float64.
            kind: Any = type(field.default)
            setattr(self, field.name, kind(value))


def parts_of(built: Built, optimizers: Optimizers, progress: Progress) -> dict[str, Part]:
    """Returns the objects whose states a checkpoint contains, by key."""
    return {MODEL: built.parallel, OPTIMIZERS: optimizers.all, PROGRESS: progress}


def parts_in_format(parts: dict[str, Part], number: int) -> dict[str, Part]:
    """Returns those of the parts that a checkpoint of format `number` contains."""
    return {key: part for key, part in parts.items() if SINCE[key] <= number}


def state_of(parts: dict[str, Part]) -> State:
    """Returns the states of the parts, to save them or to load a checkpoint into them."""
    return {key: part.state_dict() for key, part in parts.items()}


def fit_progress(state: State, metadata: Metadata) -> None:
    """Shortens the progress in `state` to the values that an earlier checkpoint has.

    Args:
        metadata: the metadata of the checkpoint to be loaded.
    """
    # A tensor can only be loaded into a tensor of the same size.
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
