"""The protocol of baseline models, and how the one of a configuration is loaded.

A baseline model is a module that turns an encoder's states into queries, instead of prior heads. It
is one Python file with `load(config, dim, context)`. A file of this folder is named without its
suffix, any other by its path. The number of queries of a position is `baseline.interests`, or what
the file's `queries(config)` returns if it defines that. A module that defines `new_score(kind)`
also makes the model's `Score`. Table, encoder, negatives, retrieval and evaluation are those of
prior heads: each query is a path over all items.

Shapes: N tokens, d width, Q positions with queries, K queries of each.
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
    """A baseline model; every parameter must take part in `learn`, even without histories."""

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """Returns queries [Q, K, d], not yet normalised for scoring.

        Args:
            states: states of whole histories; `vector_Nd` is the encoder's output.
            token_Q: positions to compute queries for, ascending. A query depends only on its own
                position and earlier ones.
        """
        ...

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """Returns this rank's share of the loss; `Learning` has the usual losses."""
        ...


def load_baseline(config: BaselineConfig, dim: int, context: int) -> nn.Module | None:
    """Loads a configuration's baseline model with its first values, from torch's own generator.

    Returns None if the configuration has no baseline model.

    Raises:
        UserError: the baseline model does not exist, or cannot have these settings.
    """
    if not config.name:
        return None
    baseline: nn.Module = _load_module(config.name).load(config, dim, context)
    return baseline


def as_priors(config: BaselineConfig, priors: PriorsConfig) -> PriorsConfig:
    """Returns the prior tree of a baseline's queries: one level of groups that all hold every item.

    Without a baseline model, returns `priors`.
    """
    if not config.name:
        return priors

    queries = config.interests
    count: Callable[[BaselineConfig], int] | None
    count = getattr(_load_module(config.name), "queries", None)
    if count is not None:
        queries = count(config)

    # Several queries are distinguished by a number; one query over all items is the empty tree.
    tree = [f"interests:{queries}"] if queries > 1 else []
    return replace(priors, tree=tree)


def interests_of(config: BaselineConfig) -> int | None:
    """Returns K of a baseline model if the configuration sets it, otherwise None.

    A custom file is not opened: it is taken for one with interests.
    """
    # Tables of results ask for rows of others, too, and reading a table must not run their code.
    if config.name.endswith(".py"):
        return config.interests
    if config.name not in known_files(Path(__file__).parent):
        return None
    if hasattr(_load_module(config.name), "queries"):
        return None
    return config.interests


def labelled(label: str, interests: int | None) -> str:
    """Returns a table row's label with the number of its model's interests.

    Args:
        label: the row's label.
        interests: K, as `interests_of` returns it; a model with one interest is a weighted sum.

    >>> labelled("MIND", 4), labelled("MIND K = 4", 4), labelled("HSTU", None)
    ('MIND, K = 4', 'MIND K = 4', 'HSTU')
    """
    if interests is None or label.endswith(f"K = {interests}"):
        return label
    return f"{label}, K = {interests}"


def check_fusion(baseline: nn.Module | None, fusion: str) -> None:
    """Checks that a baseline's queries may be fused like this.

    A module whose queries have a meaning only under max fusion says in `only_max` what another
    fusion would do.

    Raises:
        UserError: it is to be fused in another way.
    """
    if fusion == "max":
        return
    reason = getattr(baseline, "only_max", "")
    if reason:
        raise UserError(f"evaluation.fusion = '{fusion}' {reason}")


Options = TypeVar("Options")

# The largest value of each option that sizes a tensor or a loop; MOST for the others.
_MOST = {"iterations": 100, "attention": 1 << 16, "aspects": 1 << 10, "width": 1 << 16}


def read_options(kind: type[Options], config: BaselineConfig) -> Options:
    """Returns `baseline.options` as a dataclass, whose fields have types and defaults.

    Raises:
        UserError: an unknown option, or a value of another type.
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
        # Only the first problem is shown, and only the option's own name of its location.
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
