"""How a specification such as "temporal:4" or "genre" becomes a prior, and a list of them a tree.

A kind of prior is one file that defines `load(argument, data, horizon)`. A specification is "kind:argument", where the
kind is a file of this folder or the path of a user's own ("my_prior.py:argument"), or the name of a prior of the
prepared data set, whose kind the manifest tells.
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


def load_prior(specification: str, data: PreparedData, horizon: int) -> Prior:
    """The prior of a specification.

    Args:
        specification: "kind:argument", "file.py:argument" or the name of a prior of the data set.
        data: the prepared data set.
        horizon: training's tau.

    Raises:
        UserError: no such kind, no such prior in the data set, or a wrong argument.
    """
    own = own_file(specification)
    if own is not None:
        module = load_file(
            own, option="priors.tree", function="load", arguments=("argument", "data", "horizon")
        )
        prior: Prior = module.load(specification[len(str(own)) + 1 :], data, horizon)
        if not hasattr(prior, "groups"):
            raise UserError(
                f"priors.tree: `load` of '{own}' must return a prior, not {type(prior).__name__}"
            )
        return prior
    kind, colon, argument = specification.partition(":")
    known = known_files(Path(__file__).parent)
    names = {prior.name: prior.kind for prior in data.manifest.priors}
    if not colon and specification in names:
        kind = names[specification]
        argument = specification
    if kind not in known:
        usable = [
            "temporal:n",
            "random:n",
            "all:n",
            *(name for name, its_kind in names.items() if its_kind in known),
        ]
        if specification in names:
            raise UserError(
                f"priors.tree: '{specification}' is a prior of an unknown kind, '{kind}': {_list(usable)}"
            )
        if kind in names:
            raise UserError(f"priors.tree: '{kind}' takes no argument: write '{kind}'")
        if Path(f"{kind}.py").is_file():
            raise UserError(
                f"priors.tree: there is no prior '{kind}': for your file write '{kind}.py:{argument}'"
            )
        raise UserError(
            f"priors.tree: there is no prior '{specification}': {nearest(kind, usable)}"
        )
    prior = importlib.import_module(f"{__package__}.{kind}").load(argument, data, horizon)
    return prior


def prior_of_data(name: str, data: PreparedData, *kinds: str) -> PriorInfo:
    """What the manifest says of a prior of the data set.

    Raises:
        UserError: it has none of this name and of one of the kinds.
    """
    found = {prior.name: prior for prior in data.manifest.priors if prior.kind in kinds}
    if name not in found:
        raise UserError(
            f"priors.tree: data set has no {' or '.join(kinds)} prior '{name}': {nearest(name, found)}"
        )
    return found[name]


def _list(names: list[str]) -> str:
    return f"valid: {', '.join(names)}"


def load_tree(
    config: PriorsConfig, data: PreparedData, horizon: int, only: Collection[str] | None = None
) -> PriorTree:
    """The tree of a configuration over a prepared data set.

    Args:
        horizon: training's tau.
        only: as for `PriorTree`.
    """
    levels = [load_prior(level, data, horizon) for level in config.tree]
    for specification, level in zip(config.tree, levels, strict=True):
        if [other.name for other in levels].count(level.name) > 1:
            raise UserError(
                f"priors.tree: '{specification}' and another level are both '{level.name}': give it once"
            )
    return PriorTree(levels, data.items, config.composition, only)
