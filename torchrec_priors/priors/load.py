"""How a specification such as "temporal:4" or "genre" becomes a prior, and a list of them a tree.

A kind of prior is one file that defines `load(argument, data, horizon)`. A specification is
"kind:argument", where the kind is a file of this folder or the path of a user's own file
("my_prior.py:argument"), or the name of a prior of the prepared data set, whose kind is in the
manifest.
"""

import importlib
from collections.abc import Collection
from pathlib import Path

from torchrec_priors.common.plugin import known_files, load_file, own_file
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import PriorInfo
from torchrec_priors.priors.prior import Prior
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.priors import PriorsConfig

# Kinds of the data set's priors, which are given by name, and what stands for a baseline model.
_WITHOUT_ARGUMENT = ("item", "graph", "event", "user", "interests")


def load_prior(specification: str, data: PreparedData, horizon: int) -> Prior:
    """The prior of a specification.

    Args:
        specification: "kind:argument", "file.py:argument" or the name of a prior of the data set.
        data: the prepared data set.
        horizon: training's tau.

    Raises:
        UserError: no such kind, no such prior in the data set, or a wrong argument.
    """
    file = own_file(specification)
    if file is not None:
        return _prior_of_file(file, specification, data, horizon)

    kind, colon, argument = specification.partition(":")
    kinds_of_data = {prior.name: prior.kind for prior in data.manifest.priors}
    if not colon and specification in kinds_of_data:
        kind = kinds_of_data[specification]
        argument = specification
    if kind not in known_files(Path(__file__).parent):
        raise _unknown_prior(specification, kind, argument, kinds_of_data)

    prior: Prior = importlib.import_module(f"{__package__}.{kind}").load(argument, data, horizon)
    return prior


def _prior_of_file(file: Path, specification: str, data: PreparedData, horizon: int) -> Prior:
    """The prior of a user's own file; the argument follows its path and a colon."""
    arguments = ("argument", "data", "horizon")
    module = load_file(file, option="priors.tree", function="load", arguments=arguments)
    argument = specification[len(str(file)) + 1 :]
    prior: Prior = module.load(argument, data, horizon)
    if not hasattr(prior, "groups"):
        raise UserError(
            f"priors.tree: `load` of '{file}' must return a prior, not {type(prior).__name__}"
        )
    return prior


def _unknown_prior(
    specification: str, kind: str, argument: str, kinds_of_data: dict[str, str]
) -> UserError:
    """What is wrong with a specification whose kind is unknown."""
    known = known_files(Path(__file__).parent)
    of_data = [name for name, its_kind in kinds_of_data.items() if its_kind in known]
    with_argument = [f"{name}:n" for name in known if name not in _WITHOUT_ARGUMENT]
    usable = [*with_argument, *of_data]

    if specification in kinds_of_data:
        return UserError(
            f"priors.tree: '{specification}' is a prior of an unknown kind, '{kind}':"
            f" valid: {', '.join(usable)}"
        )
    if kind in kinds_of_data:
        return UserError(f"priors.tree: '{kind}' takes no argument: write '{kind}'")
    if Path(f"{kind}.py").is_file():
        return UserError(
            f"priors.tree: there is no prior '{kind}': for your file write '{kind}.py:{argument}'"
        )
    return UserError(f"priors.tree: there is no prior '{specification}': {nearest(kind, usable)}")


def prior_of_data(name: str, data: PreparedData, *kinds: str) -> PriorInfo:
    """The manifest's entry of a prior of the data set.

    Raises:
        UserError: there is no prior of this name and one of the kinds.
    """
    priors = {prior.name: prior for prior in data.manifest.priors if prior.kind in kinds}
    if name not in priors:
        raise UserError(
            f"priors.tree: data set has no {' or '.join(kinds)} prior '{name}':"
            f" {nearest(name, priors)}"
        )
    return priors[name]


def load_tree(
    config: PriorsConfig, data: PreparedData, horizon: int, only: Collection[str] | None = None
) -> PriorTree:
    """The tree of a configuration over a prepared data set.

    Args:
        horizon: training's tau.
        only: as for `PriorTree`.

    Raises:
        UserError: a level cannot be loaded, or two have the same name.
    """
    levels = [load_prior(level, data, horizon) for level in config.tree]
    names = [level.name for level in levels]
    for specification, name in zip(config.tree, names, strict=True):
        if names.count(name) > 1:
            raise UserError(
                f"priors.tree: '{specification}' and another level are both '{name}': give it once"
            )
    return PriorTree(levels, data.items, config.composition, only)
