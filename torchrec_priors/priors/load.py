"""Loads a prior from its specification (`specification.py`), and a tree from a list of them."""

import importlib
from collections.abc import Collection
from pathlib import Path

from torchrec_priors.common.plugin import load_file, own_file
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import PriorInfo
from torchrec_priors.priors.prior import Prior
from torchrec_priors.priors.specification import kind_of
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.priors import PriorsConfig


def load_prior(specification: str, data: PreparedData, horizon: int) -> Prior:
    """Loads the prior that a specification names.

    Args:
        specification: "kind:argument", "file.py:argument" or the name of a prior of the data set.
        data: the prepared data set.
        horizon: the number of next interactions that training predicts (the paper's tau).

    Raises:
        UserError: the kind does not exist, the data set has no such prior, or the argument is
            wrong.
    """
    file = own_file(specification)
    if file is not None:
        return _prior_of_file(file, specification, data, horizon)

    kind, argument = kind_of(specification, data.manifest)
    prior: Prior = importlib.import_module(f"{__package__}.{kind}").load(argument, data, horizon)
    return prior


def _prior_of_file(file: Path, specification: str, data: PreparedData, horizon: int) -> Prior:
    """Loads a prior from a user's own file.

    In the specification, the argument follows the path of the file and a colon.
    """
    arguments = ("argument", "data", "horizon")
    module = load_file(file, option="priors.tree", function="load", arguments=arguments)
    argument = specification[len(str(file)) + 1 :]
    prior: Prior = module.load(argument, data, horizon)
    if not hasattr(prior, "groups"):
        raise UserError(
            f"priors.tree: `load` of '{file}' must return a prior, not {type(prior).__name__}"
        )
    return prior


def prior_of_data(name: str, data: PreparedData, *kinds: str) -> PriorInfo:
    """Returns the manifest's entry for a prior of the data set.

    Raises:
        UserError: the data set has no prior that has this name and one of the kinds.
    """
    priors = {prior.name: prior for prior in data.manifest.priors if prior.kind in kinds}
    if name not in priors:
        raise UserError(
            f"priors.tree: the data set has no {' or '.join(kinds)} prior '{name}':"
            f" {nearest(name, priors)}"
        )
    return priors[name]


def load_tree(
    config: PriorsConfig, data: PreparedData, horizon: int, only: Collection[str] | None = None
) -> PriorTree:
    """Loads the priors of a configuration and combines them into a tree.

    Args:
        config: the section `[priors]` of the configuration.
        data: the prepared data set.
        horizon: the number of next interactions that training predicts (the paper's tau).
        only: the names of the paths that a model has heads for (see `PriorTree`).

    Raises:
        UserError: a prior cannot be loaded, or two priors have the same name.
    """
    levels = [load_prior(level, data, horizon) for level in config.tree]
    names = [level.name for level in levels]
    for specification, name in zip(config.tree, names, strict=True):
        if names.count(name) > 1:
            raise UserError(
                f"priors.tree: '{specification}' and another level are both named '{name}': give"
                " each once"
            )
    return PriorTree(levels, data.items, config.composition, only)
