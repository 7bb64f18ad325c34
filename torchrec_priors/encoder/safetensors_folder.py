"""Reads the weights of a language model from a folder with safetensors files, and writes them.

The files are those that `save_pretrained` of `transformers` writes: `model.safetensors`, or several
parts with an index. Pickled weights are not read, as they may execute code.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from torchrec_priors.errors import UserError
from torchrec_priors.settings.llm import CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_SHOWN = 3  # weights that a message names


@torch.no_grad()
def take_weights(
    folder: Path, model: "PreTrainedModel", word_table: str, key: str = "encoder.llm"
) -> None:
    """Copies the weights of a folder into a model, one at a time.

    The layer that predicts words is not used, and the table of words only if the model has one.
    Other weights that the model has no place for are counted and logged.

    Args:
        folder: the folder.
        model: the decoder, whose values are replaced. Additions of LoRA keep theirs.
        word_table: the name that the table of words has in the model.
        key: the name of the section that describes the model.

    Raises:
        UserError: there are no safetensors, they cannot be read, a weight has another shape than in
            the model, or weights of the model are missing.
    """
    option = f"{key}.folder"
    places = _places(model)
    missing = set(places)
    unexpected: list[str] = []
    for file in _files(folder, option):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (it is no dictionary)
                    # A model with a head for words has the decoder under this prefix.
                    own_name = name.removeprefix(f"{model.base_model_prefix}.")
                    place = places.get(own_name)
                    if place is None:
                        unexpected.append(name)
                        continue
                    values = weights.get_tensor(name)
                    if values.shape != place.shape:
                        raise UserError(
                            f"{option}: '{file}': {name} has the shape {list(values.shape)}, not "
                            f"{list(place.shape)} as in {key}.config: remove what differs from "
                            f"{key}.config"
                        )
                    if isinstance(place, DTensor):  # of a model that is divided among ranks
                        values = distribute_tensor(
                            values, place.device_mesh, place.placements, src_data_rank=None
                        )
                    place.copy_(values)
                    missing.discard(own_name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{option}: '{file}' cannot be read: {error}") from error

    if missing:
        raise UserError(
            f"{option}: '{folder}' lacks {_named(sorted(missing))} of the {len(places):,} weights "
            "of this model: give a folder with all of them"
        )
    reads_words = f"{word_table}.weight" in places
    _say_unexpected(unexpected, model, word_table, key, reads_words=reads_words)
    log.info("%s: %s weights of '%s' are the initial values", key, f"{len(places):,}", folder)


@torch.no_grad()
def save_weights(folder: Path, model: "PreTrainedModel") -> list[Path]:
    """Writes a decoder as `save_pretrained` of `transformers` does. Returns the files.

    Additions of LoRA become part of the weights.

    Args:
        folder: the folder, which is made.
        model: the decoder.
    """
    values = {
        name: place.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, place in _places(model).items()
    }
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):  # a layer of `peft`
            (adapter,) = module.active_adapters
            values[f"{name}.weight"] += module.get_delta_weight(adapter).cpu()

    folder.mkdir(parents=True)
    weights = folder / "model.safetensors"
    save_file(values, weights, {"format": "pt"})
    about = folder / CONFIG
    about.write_text(model.config.to_json_string(use_diff=False), encoding="utf8")
    return [about, weights]


def _places(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Returns the values of a model by the names that they have in a folder.

    `peft` puts each layer that it adds to into another module, as its `base_layer`.
    """
    return {
        name.replace(".base_layer.", "."): place
        for name, place in model.state_dict().items()
        if "lora_" not in name
    }


def _files(folder: Path, option: str) -> list[Path]:
    """Returns the safetensors files of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{option}: '{folder}' has no safetensors (pickled weights are not read): save the "
            "model with `save_pretrained` of transformers"
        )
    return files


def _say_unexpected(
    unexpected: list[str],
    model: "PreTrainedModel",
    word_table: str,
    key: str,
    *,
    reads_words: bool,
) -> None:
    """Logs the weights of a folder that are not used."""
    of_words = [name for name in unexpected if _is_of_words(name, word_table)]
    if of_words:
        reason = "no words are predicted" if reads_words else "there are no words"
        log.info("%s: not used, as %s: %s", key, reason, ", ".join(sorted(of_words)))

    # transformers knows what older releases saved in addition.
    known = model._keys_to_ignore_on_load_unexpected or []
    others = [
        name
        for name in unexpected
        if name not in of_words and not any(re.search(pattern, name) for pattern in known)
    ]
    if others:
        log.warning(
            "%s: the folder has %s that the model of %s.config does not have",
            key,
            _named(sorted(others)),
            key,
        )


def _is_of_words(name: str, word_table: str) -> bool:
    """Returns whether a weight belongs to the table of words or to the layer that predicts them."""
    return name.endswith(f"{word_table}.weight") or "lm_head" in name or "embed_out" in name


def _named(names: Sequence[str]) -> str:
    """Returns the number of some weights, with the names of the first few.

    >>> _named(["a", "b", "c", "d"])
    '4 weights (a, b, c, ...)'
    """
    shown = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        shown += ", ..."
    unit = "weight" if len(names) == 1 else "weights"
    return f"{len(names):,} {unit} ({shown})"
