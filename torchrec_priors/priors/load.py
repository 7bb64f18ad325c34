"""Loads a prior from a specification such as "temporal:4" or "genre", and a tree from a list.

A kind of prior is one file that defines `load(argument, data, horizon)`. A specification has one of
three forms:

    kind:argument             the kind is the name of a file in this folder
    my_prior.py:argument      the kind is a user's own file
    genre                     a prior of the prepared data set; the manifest gives its kind
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

# Kinds that messages do not suggest as "kind:n": users name the priors of a data set without a
# kind, and "interests" belongs to a baseline model.
_WITHOUT_ARGUMENT = ("item", "graph", "event", "user", "interests")


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


def _unknown_prior(
    specification: str, kind: str, argument: str, kinds_of_data: dict[str, str]
) -> UserError:
    """Returns the error for a specification of an unknown kind, with the remedy that fits it."""
    known = known_files(Path(__file__).parent)
    priors_of_data = [name for name, its_kind in kinds_of_data.items() if its_kind in known]
    with_argument = [f"{name}:n" for name in known if name not in _WITHOUT_ARGUMENT]
    usable = [*with_argument, *priors_of_data]

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
