"""Says which kind of prior a specification such as "temporal:4" or "genre" names.

A kind of prior is one file that defines `load(argument, data, horizon)`. A specification has one of
three forms:

    kind:argument             the kind is the name of a file in this folder
    my_prior.py:argument      the kind is a user's own file
    genre                     a prior of the prepared data set; the manifest gives its kind

Nothing here needs PyTorch, so that apps find a mistake before they import it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torchrec_priors.common.plugin import known_files, own_file
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.prepared.manifest import Manifest

# Kinds that messages do not suggest as "kind:n": users name the priors of a data set without a
# kind, and "interests" belongs to a baseline model.
_WITHOUT_ARGUMENT = ("item", "graph", "event", "user", "interests")


def check_specifications(specifications: Iterable[str], manifest: Manifest) -> None:
    """Raises UserError if a specification names no kind of prior, and no prior of the data set."""
    for specification in specifications:
        if own_file(specification) is None:
            kind_of(specification, manifest)


def kind_of(specification: str, manifest: Manifest) -> tuple[str, str]:
    """Returns the kind and the argument of a specification that names no user's own file.

    Raises:
        UserError: there is no such kind, or the data set has no such prior.
    """
    kind, colon, argument = specification.partition(":")
    kinds_of_data = {prior.name: prior.kind for prior in manifest.priors}
    if not colon and specification in kinds_of_data:
        kind = kinds_of_data[specification]
        argument = specification
    if kind not in _kinds():
        raise _unknown_prior(specification, kind, argument, kinds_of_data)
    return kind, argument


def _kinds() -> list[str]:
    """Returns the names of the files in this folder."""
    return known_files(Path(__file__).parent)


def _unknown_prior(
    specification: str, kind: str, argument: str, kinds_of_data: Mapping[str, str]
) -> UserError:
    """Returns the error for a specification of an unknown kind, with the remedy that fits it."""
    known = _kinds()
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
