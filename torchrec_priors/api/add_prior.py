"""Adds a prior to a prepared data set, or names its groups: `tp.add_prior`, `tp.name_groups`."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.api.choices import check_choice
from torchrec_priors.common.progress import stages
from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.preparation.priors.add_prior import add_prior as write_prior
from torchrec_priors.preparation.priors.add_prior import add_prior_there, check_free
from torchrec_priors.preparation.priors.name_groups import name_groups as write_words
from torchrec_priors.preparation.priors.request import PriorRequest
from torchrec_priors.preparation.table.frames import Frame, write_frame
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import Manifest
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Uri


def add_prior(
    data: PreparedData | Path | str,
    name: str,
    kind: Literal["graph", "user", "item"],
    *,
    labels: Path | str | Frame | None = None,
    by: str | None = None,
    groups: int | None = None,
    min_size: int | None = None,
    last: int | None = None,
    weights: Literal["shared", "cosine", "pmi", "equal"] | None = None,
    neighbours: int | None = None,
    resolution: float | None = None,
    join: bool | None = None,
    users_per_item: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> PreparedData:
    """Adds a prior to a prepared data set: labels of your own, an attribute, or communities.

    Args:
        data: the prepared data set, or its folder or URI.
        name: the name of the prior, as in `priors.tree`.
        kind: "item" for groups of items from `labels`; "user" for groups of users from `labels` or
            `by`, otherwise communities of users; "graph" for communities of items.
        labels: a data frame (pandas, Polars or Arrow) or a file (CSV or Parquet) with the columns
            `item_id` or `user_id`, and `label`.
        by: a prior of users, whose groups are taken, with small ones merged.
        groups: the final number of groups, with the remainder.
        min_size: the least number of members of a group.
        last: the number of each user's latest training interactions from which edges are made.
        weights: the weight of an edge between two items or users.
        neighbours: the number of strongest neighbours that each item or user keeps.
        resolution: a larger one gives more communities.
        join: whether communities that are too small or too many are joined with others.
        users_per_item: the largest number of users that are connected because of one item.
        seed: the seed of the communities and of random draws.
        overwrite: whether a prior of this name that was added before is replaced.
        progress: whether the progress is printed to standard error.

    Returns:
        The data set with the prior.

    Raises:
        UserError: the name is taken, the labels cannot be read, or arguments contradict each other.
    """
    check_choice("kind", kind, ("graph", "user", "item"))
    prepared = data if isinstance(data, PreparedData) else PreparedData(str(data))
    prepared.manifest.require_users("prior", prepared.folder)
    settings: dict[str, Any] = {
        "by": by,
        "groups": groups,
        "min_size": min_size,
        "last": last,
        "weights": weights,
        "neighbours": neighbours,
        "resolution": resolution,
        "join": join,
        "users_per_item": users_per_item,
        "seed": seed,
    }
    with ExitStack() as opened:
        if labels is not None:
            settings["from_file"] = _file_of(labels, kind, prepared, opened)
        request = PriorRequest(kind=kind, name=name, **settings)
        report = opened.enter_context(stages(shown=progress))
        make_prior(prepared, request, overwrite=overwrite, report=report)
    return PreparedData(prepared.folder)


def name_groups(data: PreparedData | Path | str, name: str, words: str) -> PreparedData:
    """Sets what the groups of a prior are called in the reasons of recommendations.

    Args:
        data: the prepared data set, or its folder or URI.
        name: the name of the prior.
        words: what a group is called, with `{}` in the place of its name, such as "{} films"; empty
            for the usual words.

    Returns:
        The data set with the words. Runs that were trained before use them, too.

    Raises:
        UserError: there is no such prior, or the words have no `{}`.
    """
    folder = data.folder if isinstance(data, PreparedData) else PreparedData(str(data)).folder
    write_words(folder, name, words)
    return PreparedData(folder)


def make_prior(
    data: PreparedData,
    request: PriorRequest,
    *,
    overwrite: bool,
    report: Callable[[str], None],
) -> tuple[list[str], Manifest]:
    """Computes a prior and writes it into the data set.

    Args:
        report: called with the name of each stage.

    Returns:
        Messages for users, and the new manifest.

    Raises:
        UserError: as for `add_prior`.
    """
    # Whether the result can be written is checked first, because the computation may take long.
    place = data.folder
    if isinstance(place, Uri):
        Store(place, "--data").require_writable()
    check_free(data.manifest, request.name, overwrite)

    grouping = request.make(data, report)
    if isinstance(place, Uri):
        manifest = add_prior_there(
            place, request.name, grouping, data.manifest, overwrite=overwrite
        )
    else:
        manifest = write_prior(place, request.name, grouping, data.manifest, overwrite=overwrite)
    return grouping.messages, manifest


def _file_of(labels: Path | str | Frame, kind: str, data: PreparedData, opened: ExitStack) -> Path:
    """Returns a file with the labels. A data frame is written to a temporary file for this."""
    if isinstance(labels, str | Path):
        return Path(labels)
    folder = opened.enter_context(scratch_folder(data.scratch, "labels"))
    file = folder / "labels.parquet"
    write_frame(labels, [f"{kind}_id", "label"], file, "labels")
    return file
