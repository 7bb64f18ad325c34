"""The interface of plain baselines, and the function that loads the one of a configuration.

A plain baseline is one file of this folder with a dataclass `Options` and a function
`load(options, log)`, which fits it and returns a `Plain`. `plain.name` is the name of the file.

Shapes: B users of a batch, I items.
"""

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from torchrec_priors.common.plugin import known_files
from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.plain.log import Log
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.mistakes import explain, first_mistake
from torchrec_priors.settings.plain import PlainConfig
from torchrec_priors.settings.ranges import adapter, explain_range, is_of_range


class Plain(Protocol):
    """A fitted baseline.

    Attributes:
        numbers: the count of numbers that it stores. It is shown like the parameters of a neural
            model.
        columns: what it reads of histories in addition to items, such as `timestamps`: the columns
            of `Histories` that `scores` gets.
    """

    numbers: int
    columns: tuple[str, ...]

    def scores(self, users: Histories) -> np.ndarray:
        """Returns the scores of all items, float [B, I].

        Items with equal scores are recommended in order of popularity (`retrieval/plain_lists.py`).
        """
        ...


def fit_plain(config: PlainConfig, log: Log) -> Plain:
    """Fits the baseline of a configuration to the training part of a log.

    The result depends on nothing but the arguments: the same log gives the same scores.

    Raises:
        UserError: the baseline does not exist, an option is wrong, or the data set does not have
            what the baseline needs.
    """
    module = _load_module(config.name)
    fitted: Plain = module.load(_options(module.Options, config), log)
    return fitted


def check_plain(config: PlainConfig) -> None:
    """Checks the name and the options of a plain baseline, without a log.

    Raises:
        UserError: the baseline does not exist, or an option is unknown or wrong.
    """
    _options(_load_module(config.name).Options, config)


def check_prior(name: str, data: PreparedData, *kinds: str) -> None:
    """Checks the option `prior` of a baseline.

    Args:
        name: the value of the option.
        kinds: the kinds of priors that the baseline can use.

    Raises:
        UserError: the data set has no prior of these kinds with this name.
    """
    usable = [prior.name for prior in data.manifest.priors if prior.kind in kinds]
    if name not in usable:
        raise UserError(
            f"plain.options.prior: data set '{data.manifest.name}' has no {' or '.join(kinds)} "
            f"prior '{name}': {nearest(name, usable)}"
        )


def _load_module(name: str) -> Any:
    """Returns the module of a baseline."""
    known = known_files(Path(__file__).parent)
    if name not in known:
        raise UserError(f"plain.name: there is no '{name}': {nearest(name, known)}")
    return importlib.import_module(f"{__package__}.{name}")


def _options(kind: Any, config: PlainConfig) -> Any:
    """Returns `plain.options` as the dataclass `kind`, checked."""
    try:
        return adapter(kind).validate_json(json.dumps(config.options))
    except ValidationError as error:
        key, problem = first_mistake(error)
        if is_of_range(problem):
            raise UserError(f"plain.options.{explain_range(kind, problem)}") from error
        if problem["type"] == "unexpected_keyword_argument":
            known = [item.name for item in fields(kind)]
            raise UserError(
                f"plain.options: {config.name} has no '{key}': {nearest(key, known)}"
            ) from error
        raise UserError(f"plain.options: {explain(error, 'option', [])}") from error
