"""Builds the decoder of a language model with `transformers`, without its table of words."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torchrec_priors.encoder.window_attention import NAME, window_attention
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.settings.llm import LLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

# Former keys, which transformers converts.
_CONVERTED = ("rope_scaling", "rope_theta")
_MOST_LAYERS = 1 << 8
_MOST_WIDTH = 1 << 16


def make_language_model(section: LLMConfig, context: int) -> tuple["PreTrainedModel", str]:
    """Builds a decoder with random initial values, which reads vectors in place of words.

    Attention is `window_attention`. All dropouts are off. Only code of `transformers` is used,
    never code that comes with a model.

    Args:
        section: the section `encoder.llm`.
        context: the largest number of vectors of a window.

    Returns:
        The decoder, and the name that the table of words has in it.

    Raises:
        UserError: `transformers` is not installed, or the configuration is not one of a decoder
            that can read windows of this length.
    """
    try:
        from transformers import AttentionInterface, AutoModel
    except ImportError as error:
        raise UserError(
            'encoder.backbone = "llm" needs an extra: pip install "torchrec-priors[llm]"'
        ) from error

    config = _read(section)
    _check(config, context)
    _turn_dropout_off(config)
    # Vectors of items take the place of words. The table of words is removed below.
    config.vocab_size = 1
    config.pad_token_id = None

    AttentionInterface.register(NAME, window_attention)
    # Each model of transformers has exceptions of its own for wrong values.
    try:
        model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=NAME)
    except Exception as error:
        raise UserError(_rejected(config.model_type, error)) from error
    words = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is words)
    model.set_input_embeddings(nn.Identity())
    return model, name


def _read(section: LLMConfig) -> Any:
    """Returns the configuration as an object of `transformers`."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    given = dict(section.config)
    model_type = str(given.pop("model_type"))
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        suggestion = nearest(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise UserError(
            f"encoder.llm.config.model_type = '{model_type}' is no decoder that this release of "
            f"transformers knows: {suggestion}"
        )
    if "quantization_config" in given:
        raise UserError(
            "encoder.llm: weights that are quantised cannot be trained: use a folder with weights "
            "in full precision"
        )
    try:
        config = AutoConfig.for_model(model_type, **given)
    except Exception as error:
        raise UserError(_rejected(model_type, error)) from error

    _check_keys(config, given, strict=not section.folder)
    return config


def _check_keys(config: Any, given: Iterable[str], *, strict: bool) -> None:
    """Rejects keys that `transformers` does not know, which it ignores.

    Args:
        config: the configuration as an object of `transformers`.
        given: the keys.
        strict: whether the user wrote all keys. Those of a folder may come from another release, so
            they are only logged.
    """
    known = {*type(config)().to_dict(), *type(config).attribute_map, *_CONVERTED}
    unknown = sorted(key for key in given if key not in known)
    if unknown and strict:
        raise UserError(
            f"encoder.llm.config: {config.model_type} has no '{unknown[0]}': "
            f"{nearest(unknown[0], known)}"
        )
    if unknown:
        log.warning(
            "encoder.llm.config: this release of transformers does not list %s for %s",
            ", ".join(unknown),
            config.model_type,
        )


def _check(config: Any, context: int) -> None:
    """Raises UserError if sizes are missing or absurd, or windows are too long."""
    for name, most in (("num_hidden_layers", _MOST_LAYERS), ("hidden_size", _MOST_WIDTH)):
        size = getattr(config, name, None)
        if not isinstance(size, int) or not 1 <= size <= most:
            raise UserError(
                f"encoder.llm.config: {name} = {size} of {config.model_type} must be in "
                f"[1, {most:,}]"
            )
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and context > longest:
        raise UserError(
            f"model.context = {context:,} is more than max_position_embeddings = {longest:,} of "
            "encoder.llm: use a shorter context or another language model"
        )


def _turn_dropout_off(config: Any) -> None:
    """Sets all probabilities of dropout to 0.

    Dropout of `transformers` depends on the state of a generator, so on the ranks and on resuming.
    """
    turned_off = []
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float) and value > 0:
            setattr(config, key, 0.0)
            turned_off.append(key)
    if turned_off:
        log.info(
            "encoder.llm: %s of the language model are off: encoder.dropout is dropout on the "
            "input",
            ", ".join(turned_off),
        )


def _rejected(model_type: str, error: Exception) -> str:
    """Returns one line about a configuration that `transformers` rejects."""
    reason = " ".join(str(error).split())
    return f"encoder.llm.config: transformers rejects this {model_type}: {reason}"
