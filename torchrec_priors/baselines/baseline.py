"""What a baseline is: a module that turns an encoder's states into queries in place of prior heads; how one is found.

A baseline is one Python file with `load(config, dim, context)`. Those of this folder are known by their file's name,
any other by its path. A file that defines `queries(config)` says itself how many queries a position has; the others
have `baseline.interests`. A module that defines `new_score(kind)` makes the model's `Score`, too. Table, encoder,
negatives, retrieval and evaluation are those of prior heads: each query is a path over all items.

Shapes: N tokens, d width, Q positions that are asked for, K queries of each.
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
    """A module; every parameter must take part in `learn` even where there are no histories."""

    def queries(self, states: Jagged, token_Q: Tensor) -> Tensor:
        """[Q, K, d], not yet normalised for scoring.

        Args:
            states: of whole histories; `vector_Nd` is what the encoder gave.
            token_Q: the positions asked for, ascending. Queries depend on their own and earlier positions alone.
        """
        ...

    def learn(self, states: Jagged, learning: Learning) -> Learnt:
        """This rank's share of the loss; `Learning` has the usual ones ready."""
        ...


def load_baseline(config: BaselineConfig, dim: int, context: int) -> nn.Module | None:
    """The baseline of a configuration with its first values, from torch's own generator; None without one.

    Raises:
        UserError: there is no such baseline, or it cannot have these settings.
    """
    if not config.name:
        return None
    baseline: nn.Module = _file(config.name).load(config, dim, context)
    return baseline


def as_priors(config: BaselineConfig, priors: PriorsConfig) -> PriorsConfig:
    """The prior tree that stands for a baseline's queries: one level, whose groups all hold everything."""
    if not config.name:
        return priors
    number: Callable[[BaselineConfig], int] | None = getattr(_file(config.name), "queries", None)
    queries = config.interests if number is None else number(config)
    return replace(priors, tree=[f"interests:{queries}"] if queries > 1 else [])


def interests_of(config: BaselineConfig) -> int | None:
    """K of a baseline with interests, that is with queries that the configuration numbers; None of another.

    A file of the user's own is not opened: it is taken for one with interests.
    """
    if config.name.endswith(".py"):
        return config.interests
    if config.name not in known_files(Path(__file__).parent) or hasattr(
        _file(config.name), "queries"
    ):
        return None
    return config.interests


def labelled(label: str, interests: int | None) -> str:
    """The label of a table's row, which says how many interests its model has: with one, it is a weighted sum.

    Args:
        interests: as `interests_of` gives them.

    >>> labelled("MIND", 4), labelled("MIND K = 4", 4), labelled("HSTU", None)
    ('MIND, K = 4', 'MIND K = 4', 'HSTU')
    """
    if interests is None or label.endswith(f"K = {interests}"):
        return label
    return f"{label}, K = {interests}"


def check_fusion(baseline: nn.Module | None, fusion: str) -> None:
    """A module whose queries mean something under max fusion alone says in `only_max` what another one would do.

    Raises:
        UserError: it is to be fused otherwise.
    """
    if fusion != "max" and (why := getattr(baseline, "only_max", "")):
        raise UserError(f"evaluation.fusion = '{fusion}' {why}")


Options = TypeVar("Options")

_MOST = {"iterations": 100, "attention": 1 << 16, "aspects": 1 << 10, "width": 1 << 16}


def read_options(kind: type[Options], config: BaselineConfig) -> Options:
    """`baseline.options` as a dataclass, whose fields have types and defaults.

    Raises:
        UserError: an option that it has not, or a value of another type.
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
        problem = error.errors()[0]
        option = ".".join(str(part) for part in problem["loc"][:1])
        raise UserError(
            f"baseline.options.{option} = {problem['input']!r}: {problem['msg'].lower()}"
        ) from error


def _file(name: str) -> Any:
    if name.endswith(".py"):
        return load_file(
            Path(name),
            option="baseline.name",
            function="load",
            arguments=("config", "dim", "context"),
        )
    known = [file for file in known_files(Path(__file__).parent) if file != Path(__file__).stem]
    if name not in known:
        raise UserError(f"baseline.name: there is no '{name}': {nearest(name, known)}")
    return importlib.import_module(f"{__package__}.{name}")
