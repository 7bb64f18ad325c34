"""Reads the weights of a language model from a folder with safetensors files.

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

from torchrec_priors.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_OPTION = "encoder.llm.folder"
_SHOWN = 3  # weights that a message names


@torch.no_grad()
def take_weights(folder: Path, model: "PreTrainedModel", word_table: str) -> None:
    """Copies the weights of a folder into a model, one at a time.

    The layer that predicts words and the table of words are not used. Other weights that the model
    has no place for are counted and logged.

    Args:
        folder: the folder.
        model: the decoder, whose values are replaced.
        word_table: the name that the table of words has in the model.

    Raises:
        UserError: there are no safetensors, they cannot be read, a weight has another shape than in
            the model, or weights of the model are missing.
    """
    places = model.state_dict()
    missing = set(places)
    unexpected: list[str] = []
    for file in _files(folder):
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
                            f"{_OPTION}: '{file}': {name} has the shape {list(values.shape)}, not "
                            f"{list(place.shape)} as in encoder.llm.config: remove what differs "
                            "from encoder.llm.config"
                        )
                    place.copy_(values)
                    missing.discard(own_name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{_OPTION}: '{file}' cannot be read: {error}") from error

    if missing:
        raise UserError(
            f"{_OPTION}: '{folder}' lacks {_named(sorted(missing))} of the {len(places):,} weights "
            "of this model: give a folder with all of them"
        )
    _say_unexpected(unexpected, model, word_table)
    log.info("encoder.llm: %s weights of '%s' are the initial values", f"{len(places):,}", folder)


def _files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{_OPTION}: '{folder}' has no safetensors (pickled weights are not read): save the "
            "model with `save_pretrained` of transformers"
        )
    return files


def _say_unexpected(unexpected: list[str], model: "PreTrainedModel", word_table: str) -> None:
    """Logs the weights of a folder that are not used."""
    of_words = [name for name in unexpected if _is_of_words(name, word_table)]
    if of_words:
        log.info("encoder.llm: not used, as there are no words: %s", ", ".join(sorted(of_words)))

    # transformers knows what older releases saved in addition.
    known = model._keys_to_ignore_on_load_unexpected or []
    others = [
        name
        for name in unexpected
        if name not in of_words and not any(re.search(pattern, name) for pattern in known)
    ]
    if others:
        log.warning(
            "encoder.llm: the folder has %s that the model of encoder.llm.config does not have",
            _named(sorted(others)),
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
