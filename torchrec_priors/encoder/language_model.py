"""Builds the decoder of a language model with `transformers`."""

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


def make_language_model(
    section: LLMConfig,
    longest: int,
    *,
    key: str = "encoder.llm",
    window: str = "model.context",
    keeps_words: bool = False,
) -> tuple["PreTrainedModel", str]:
    """Builds a decoder with random initial values, which reads windows of vectors.

    Attention is `window_attention`. All dropouts are off. Only code of `transformers` is used,
    never code that comes with a model.

    Args:
        section: the section of the configuration.
        longest: the largest number of vectors of a window.
        key: the name of the section, for messages.
        window: what decides `longest`, for messages.
        keeps_words: whether the model has its table of words.

    Returns:
        The decoder, and the name that the table of words has in it.

    Raises:
        UserError: `transformers` is not installed, or the configuration is not one of a decoder
            that can read windows of this length.
    """
    try:
        from transformers import AttentionInterface, AutoModel
    except ImportError as error:
        raise UserError(f'{key} needs an extra: pip install "torchrec-priors[llm]"') from error

    config = _read(section, key)
    _check(config, longest, key, window)
    _turn_dropout_off(config, key)
    # No row of the table of words is padding, which would never be trained.
    config.pad_token_id = None
    if not keeps_words:
        # Vectors of items take the place of words. The table of words is removed below.
        config.vocab_size = 1

    AttentionInterface.register(NAME, window_attention)
    # Each model of transformers has exceptions of its own for wrong values.
    try:
        model = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=NAME)
    except Exception as error:
        raise UserError(_rejected(key, config.model_type, error)) from error
    words = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is words)
    if not keeps_words:
        model.set_input_embeddings(nn.Identity())
    return model, name


def _read(section: LLMConfig, key: str) -> Any:
    """Returns the configuration as an object of `transformers`."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    given = dict(section.config)
    model_type = str(given.pop("model_type"))
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        suggestion = nearest(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise UserError(
            f"{key}.config.model_type = '{model_type}' is no decoder that this release of "
            f"transformers knows: {suggestion}"
        )
    if "quantization_config" in given:
        raise UserError(
            f"{key}: weights that are quantised cannot be trained: use a folder with weights "
            "in full precision"
        )
    try:
        config = AutoConfig.for_model(model_type, **given)
    except Exception as error:
        raise UserError(_rejected(key, model_type, error)) from error

    _check_keys(config, given, key, strict=not section.folder)
    return config


def _check_keys(config: Any, given: Iterable[str], key: str, *, strict: bool) -> None:
    """Rejects keys that `transformers` does not know, which it ignores.

    Args:
        config: the configuration as an object of `transformers`.
        given: the keys.
        key: the name of the section.
        strict: whether the user wrote all keys. Those of a folder may come from another release, so
            they are only logged.
    """
    known = {*type(config)().to_dict(), *type(config).attribute_map, *_CONVERTED}
    unknown = sorted(name for name in given if name not in known)
    if unknown and strict:
        raise UserError(
            f"{key}.config: {config.model_type} has no '{unknown[0]}': {nearest(unknown[0], known)}"
        )
    if unknown:
        log.warning(
            "%s.config: this release of transformers does not list %s for %s",
            key,
            ", ".join(unknown),
            config.model_type,
        )


def _check(config: Any, longest: int, key: str, window: str) -> None:
    """Raises UserError if sizes are missing or absurd, or windows are too long."""
    for name, most in (("num_hidden_layers", _MOST_LAYERS), ("hidden_size", _MOST_WIDTH)):
        size = getattr(config, name, None)
        if not isinstance(size, int) or not 1 <= size <= most:
            raise UserError(
                f"{key}.config: {name} = {size} of {config.model_type} must be in [1, {most:,}]"
            )
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and longest > positions:
        raise UserError(
            f"{window} = {longest:,} is more than max_position_embeddings = {positions:,} of "
            f"{key}: use shorter ones or another language model"
        )


def _turn_dropout_off(config: Any, key: str) -> None:
    """Sets all probabilities of dropout to 0.

    Dropout of `transformers` depends on the state of a generator, so on the ranks and on resuming.
    """
    turned_off = []
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float) and value > 0:
            setattr(config, name, 0.0)
            turned_off.append(name)
    if turned_off:
        log.info(
            "%s: %s of the language model are off: encoder.dropout is dropout on the input of the "
            "encoder",
            key,
            ", ".join(turned_off),
        )


def _rejected(key: str, model_type: str, error: Exception) -> str:
    """Returns one line about a configuration that `transformers` rejects."""
    reason = " ".join(str(error).split())
    return f"{key}.config: transformers rejects this {model_type}: {reason}"
