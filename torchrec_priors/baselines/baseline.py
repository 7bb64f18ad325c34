"""The protocol of baseline models, and functions that load the baseline model of a configuration.

A baseline model is a module that turns an encoder's states into queries, in place of prior heads.
It is one Python file with a function `load(config, dim, context)`. `baseline.name` is the name of a
file in this folder (without ".py"), or the path of any other file.

A position has `baseline.interests` queries. If the file has a function `queries(config)`, that
function returns the number instead. A module with a method `new_score(kind)` also creates the
model's `Score`. Table, encoder, negatives, retrieval and evaluation are the same as for prior
heads: each query is a path over all items.

Shapes: N tokens, d width, Q positions with queries, K queries of each position.
"""

import importlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from torchrec_priors.baselines.learning import Learning, Learnt
from torchrec_priors.common.limits import MOST, check_most
from torchrec_priors.common.plugin import known_files, load_file
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.settings.baseline import BaselineConfig
from torchrec_priors.settings.priors import PriorsConfig


class Baseline(Protocol):
    """A baseline model. `learn` must use every parameter, even if there are no histories."""

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns queries [Q, K, d], not yet normalised for scoring.

        Args:
            states: states of whole histories; `vector_Nd` is the encoder's output.
            token_Q: positions to compute queries for, ascending. A query depends only on its
                position and earlier ones.
        """
        ...

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """Returns this rank's share of the loss. `Learning` has the usual losses."""
        ...


def load_baseline(config: BaselineConfig, dim: int, context: int) -> nn.Module | None:
    """Returns the baseline model of a configuration, with initial values from torch's generator.

    Returns None if the configuration has no baseline model.

    Raises:
        UserError: the baseline model does not exist, or does not support a setting.
    """
    if not config.name:
        return None
    baseline: nn.Module = _load_module(config.name).load(config, dim, context)
    return baseline


def as_priors(config: BaselineConfig, priors: PriorsConfig) -> PriorsConfig:
    """Returns the priors of a baseline's queries: one level of groups, each with all items.

    Without a baseline model, it returns `priors`.
    """
    if not config.name:
        return priors

    queries = config.interests
    count: Callable[[BaselineConfig], int] | None
    count = getattr(_load_module(config.name), "queries", None)
    if count is not None:
        queries = count(config)

    # The groups of several queries have numbers as names. A single query needs no tree.
    tree = [f"interests:{queries}"] if queries > 1 else []
    return replace(priors, tree=tree)


def interests_of(config: BaselineConfig) -> int | None:
    """Returns K of a baseline model if `baseline.interests` sets it, otherwise None.

    A custom file is not opened: it is assumed to have interests.
    """
    # Tables of results may contain other people's runs. Printing them must not run their code.
    if config.name.endswith(".py"):
        return config.interests
    if config.name not in known_files(Path(__file__).parent):
        return None
    if hasattr(_load_module(config.name), "queries"):
        return None
    return config.interests


def labelled(label: str, interests: int | None) -> str:
    """Returns the label of a table row with the number of interests of its model.

    K = 1 is shown, too, because the single query of such a model is still a weighted sum of states.

    Args:
        label: the row's label.
        interests: K, as `interests_of` returns it; None for a model without interests.

    >>> labelled("MIND", 4), labelled("MIND K = 4", 4), labelled("HSTU", None)
    ('MIND, K = 4', 'MIND K = 4', 'HSTU')
    """
    if interests is None or label.endswith(f"K = {interests}"):
        return label
    return f"{label}, K = {interests}"


def check_fusion(baseline: nn.Module | None, fusion: str) -> None:
    """Checks that the queries of a baseline model can be fused in a given way.

    If queries only make sense with max fusion, the module has an attribute `only_max`, a text that
    says what another fusion would do.

    Args:
        baseline: the baseline model; None if there is none.
        fusion: the setting `evaluation.fusion`.

    Raises:
        UserError: the queries need max fusion, and `fusion` is different.
    """
    if fusion == "max":
        return
    reason = getattr(baseline, "only_max", "")
    if reason:
        raise UserError(f"evaluation.fusion = '{fusion}' {reason}")


Options = TypeVar("Options")

# The largest value of each option that is the size of a tensor or the length of a loop. For other
# options it is MOST.
_MOST = {"iterations": 100, "attention": 1 << 16, "aspects": 1 << 10, "width": 1 << 16}


def read_options(kind: type[Options], config: BaselineConfig) -> Options:
    """Returns `baseline.options` as a dataclass.

    Args:
        kind: the dataclass. Its fields are the options, with their types and defaults.
        config: the section `baseline` of the configuration.

    Raises:
        UserError: an option is unknown, or a value has the wrong type.
    """
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    name = Path(config.name).stem
    for option, value in config.options.items():
        if option not in known:
            raise UserError(f"baseline.options: {name} has no '{option}': {nearest(option, known)}")
        if isinstance(value, int):
            check_most(f"baseline.options.{option}", value, _MOST.get(option, MOST))

    try:
        return TypeAdapter(kind).validate_python(dict(config.options))
    except ValidationError as error:
        # Only the first problem is shown, with the name of the option as its location.
        problem = error.errors()[0]
        option = ".".join(str(part) for part in problem["loc"][:1])
        raise UserError(
            f"baseline.options.{option} = {problem['input']!r}: {problem['msg'].lower()}"
        ) from error


def _load_module(name: str) -> Any:
    """Returns the module of a baseline's file, by name or by path."""
    if name.endswith(".py"):
        return load_file(
            Path(name),
            option="baseline.name",
            function="load",
            arguments=("config", "dim", "context"),
        )

    known = known_files(Path(__file__).parent)
    if name not in known:
        raise UserError(f"baseline.name: there is no '{name}': {nearest(name, known)}")
    return importlib.import_module(f"{__package__}.{name}")
