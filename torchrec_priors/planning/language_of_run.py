"""Describes the language models of a run, and the content of its items, for the planner."""

import torch
from torch import Tensor, nn

from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.encoder.language_model import make_language_model
from torchrec_priors.planning.language import LanguageModel
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.tokens import read_tokens
from torchrec_priors.settings.run_config import RunConfig

TEXT_TOKENS = 64  # of an item's text, if nothing is known about it
_LONGEST = 256  # tokens of a text, if nothing is known about it


def language_models(
    config: RunConfig, data: PreparedData | None, negatives: int, text_tokens: int | None
) -> tuple[LanguageModel, ...]:
    """Returns the language models of a run.

    Args:
        config: the configuration of the run.
        data: the data set, which has the texts; None if there is none.
        negatives: the number of negatives of a step, over all ranks.
        text_tokens: the average number of tokens of a text; None if the user does not say.
    """
    model = config.model
    found = []

    if config.items.encoder:
        longest = _LONGEST
        average = TEXT_TOKENS
        if data is not None:
            tokens = read_tokens(data, config.items.content)
            longest = tokens.info.dim
            average = -(-len(tokens.token_V) // max(len(tokens.item_M), 1))

        empty = torch.zeros(1, dtype=torch.int64)
        with torch.device("meta"):
            items = ItemLLM(config.items, empty[:0], empty, longest)
        found.append(
            _described(
                "items",
                items,
                items.model,
                window=(text_tokens or average) + 1,  # with [ITEM]
                # At most, all items of the windows are different.
                windows=model.context + model.horizon,
                others=negatives,
                recompute=config.items.recompute,
                precision=config.training.precision,
                runs=items.is_trained,
            )
        )

    if config.encoder.has_llm:
        with torch.device("meta"):
            users, _ = make_language_model(config.encoder.llm, model.context)
        found.append(
            _described(
                "users",
                users,
                users,
                window=model.context,
                windows=1.0 / config.training.accumulate,
                recompute=config.encoder.recompute,
                precision=config.training.precision,
            )
        )
    return tuple(found)


def content_of(
    config: RunConfig, data: PreparedData | None, language: tuple[LanguageModel, ...]
) -> tuple[int, int]:
    """Returns the width of the content of items, and the number of weights of its projection.

    Both are 0 without content, and if it is not known because there is no data set.
    """
    dim = config.model.dim
    if config.items.encoder:
        (items,) = (model for model in language if model.name == "items")
        is_projected = items.width != dim or not items.runs
        return items.width, (items.width + 1) * dim if is_projected else 0
    if config.embedding.content and data is not None:
        width = data.manifest.content_of(config.embedding.content).dim
        return width, (width + 1) * dim
    return 0, 0


def _described(
    name: str,
    whole: nn.Module,
    decoder: nn.Module,
    *,
    window: int,
    windows: float,
    others: int = 0,
    recompute: bool,
    precision: str,
    runs: bool = True,
) -> LanguageModel:
    """Describes a model that is on the meta device.

    Args:
        name: `items` or `users`.
        whole: the model with what is added to it.
        decoder: the decoder of `transformers`.
        window, windows, others, recompute, precision, runs: see `LanguageModel`.
    """
    settings = decoder.config.to_dict()  # type: ignore[operator, union-attr]
    width = settings.get("hidden_size", settings.get("n_embd", 1))
    heads = settings.get("num_attention_heads", settings.get("n_head", 1))
    words = decoder.get_input_embeddings()  # type: ignore[operator]
    of_words = words.weight.numel() if isinstance(words, nn.Embedding) else 0
    return LanguageModel(
        name=name,
        model_type=settings["model_type"],
        parameters=_count(list(whole.parameters())),
        trained=_count([value for value in whole.parameters() if value.requires_grad]),
        of_layers=_count(list(decoder.parameters())) - of_words,
        layers=settings.get("num_hidden_layers", settings.get("n_layer", 1)),
        width=width,
        inner=settings.get("intermediate_size") or settings.get("n_inner") or 4 * width,
        head=settings.get("head_dim") or width // heads,
        window=window,
        windows=windows,
        others=others,
        recompute=recompute,
        precision=precision,
        runs=runs,
    )


def _count(parameters: list[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
