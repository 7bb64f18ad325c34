"""Writes the weights of a checkpoint as safetensors files, and loads them into a model.

A checkpoint of a training has the states of the optimizers, too, and its files are pickles.
safetensors files have only names and numbers, and other programs can read them.
"""

import json
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.built import Built
from torchrec_priors.training.checkpoint.check import flaw_of_files
from torchrec_priors.training.checkpoint.keys import key_in_model
from torchrec_priors.training.checkpoint.manifest import Checksum
from torchrec_priors.training.checkpoint.reader import Reader
from torchrec_priors.training.run.pushed import WEIGHTS, read_pushed

_MOST_BYTES = 5 * 10**9  # of a file, unless a tensor is larger
_NAMES = "model{suffix}.safetensors"  # names that other programs of the hub know
_INDEX = "model.safetensors.index.json"


def write_weights(place: Path, folder: Path, ranks: Ranks) -> None:
    """Writes the weights of a checkpoint into a folder, a file at a time.

    Args:
        place: the folder of the checkpoint; its files were checked before.
        folder: the folder to write into.
        ranks: one rank.
    """
    from huggingface_hub import split_torch_state_dict_into_shards  # an extra

    # Tensors on the meta device have sizes, but take no memory.
    beginning = key_in_model("")
    stored = Reader(place).metadata.state_dict_metadata
    sizes = {
        key.removeprefix(beginning): torch.empty(
            entry.size, dtype=entry.properties.dtype, device="meta"
        )
        for key, entry in stored.items()
        if key.startswith(beginning) and isinstance(entry, TensorStorageMetadata)
    }
    plan = split_torch_state_dict_into_shards(
        sizes, filename_pattern=_NAMES, max_shard_size=_MOST_BYTES
    )

    for file, names in plan.filename_to_tensors.items():
        state = {key_in_model(name): torch.empty_like(sizes[name], device="cpu") for name in names}
        dcp.load(state, storage_reader=Reader(place), process_group=ranks.side)
        weights = {key.removeprefix(beginning): value for key, value in state.items()}
        save_file(weights, folder / file, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf8")


def load_weights(folder: Path, built: Built) -> str:
    """Loads the weights of a pushed run; returns the name of their checkpoint.

    Every rank must call it, and each reads the rows that it holds.

    Raises:
        UserError: a file is damaged, or has the weights of another model.
    """
    pushed = read_pushed(folder)
    files = {
        name: Checksum(file.bytes, file.sha256)
        for name, file in pushed.files.items()
        if Path(name).match(WEIGHTS) and "/" not in name
    }
    flaw = flaw_of_files(folder, files, built.ranks)
    if flaw is not None:
        raise UserError(f"--run: '{folder}' is damaged ({flaw}): push or fetch it again")
    for file in folder.glob("*.safetensors"):
        if file.name not in files:
            raise UserError(f"--run: '{file}' is not a file of the pushed run: remove it")

    state = built.parallel.state_dict()
    try:
        reader = HuggingFaceStorageReader(str(folder))
        dcp.load(state, storage_reader=reader, process_group=built.ranks.side)
    except (CheckpointException, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--run: the weights in '{folder}' cannot be loaded ({reason}): push it again"
        ) from error
    built.parallel.load_state_dict(state)
    return pushed.checkpoint
