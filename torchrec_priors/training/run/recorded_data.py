"""Compares a run's record of its data set with the data set as it is now.

A data set may have grown since the run was trained (`prepare --append`), or it may have changed.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.origin import Origin, UsedContent

log = logging.getLogger(__name__)

# For each value of `embedding.unseen`: how a run treats items that are newer than the run.
_NEW_ITEMS = {
    "own": "they have no rows: left out, never recommended (embedding.unseen may be dropped, "
    "shared, hashed or managed)",
    "dropped": "left out and never recommended",
    "shared": "they have the shared row and are never recommended",
    "hashed": "they have hashed rows",
    "content": "they are recommended by their content, if they have any",
    "managed": "they have no rows of their own and are not recommended until training meets them",
}


@dataclass(frozen=True)
class TrainedOn:
    """The record that a run made of its data when it started.

    Attributes:
        paths: the file `paths.json`, with the training positives of the run's paths.
        items: the number of items that the data set had when the run started.
        seen_I: bool, whether each of these items occurs often enough in the training data to get
            its own row; None if this does not depend on how often an item occurs.
        groups: the number of groups that each prior had when the run started, if the data set has
            grown since then; otherwise None.
    """

    paths: Path
    items: int
    seen_I: np.ndarray | None
    groups: dict[str, int] | None


def earlier_state(data: PreparedData, origin: Origin) -> dict[str, Any] | None:
    """Returns the manifest's entry for the state of the data set that a run was trained on.

    It is None if the data set has not grown since then, or if the run was trained on other data.
    """
    if data.manifest.prepared_sha256 == origin.content_sha256:
        return None

    # The manifest lists all earlier states of the data set.
    states = [
        state for state in data.manifest.grown if state["prepared_sha256"] == origin.content_sha256
    ]
    return states[-1] if states else None


def added_priors(config: RunConfig, data: PreparedData) -> dict[str, str]:
    """Returns the checksums of those added priors that a run uses, by name.

    Added priors are those that the command `prior` has added to a prepared data set.
    """
    # A level of the tree is the name of a prior, or a kind of prior with another prior as its
    # argument, such as "random:genre".
    names = {part for level in config.priors.tree for part in (level, *level.split(":"))}
    # A plain baseline names a prior in its options.
    names.add(str(config.plain.options.get("prior")))
    added = data.manifest.added_priors()

    # A Python file of the user may read any of the added priors.
    if config.own_files():
        return added
    return {name: checksum for name, checksum in added.items() if name in names}


def check_priors(run: Path, origin: Origin, data: PreparedData) -> None:
    """Checks that the added priors that a run uses are unchanged, or have only grown.

    Raises:
        UserError: an added prior is missing or has changed.
    """
    added = data.manifest.added_priors()
    for name, checksum in origin.priors.items():
        if name not in added:
            raise UserError(
                f"'{run}' was trained with prior '{name}', which '{data.folder}' lacks: "
                "add it again"
            )

        # If the data set has grown, a prior also lists the checksums of its earlier states.
        if checksum not in (added[name], *data.manifest.prior(name).grown_from):
            raise UserError(
                f"prior '{name}' of '{data.folder}' has changed since '{run}' was "
                "trained: make it as it was, or train again"
            )


def used_content(config: RunConfig, data: PreparedData) -> dict[str, UsedContent]:
    """Returns the content of items that a run uses, by name."""
    name = config.embedding.content or config.items.content
    if not name:
        return {}
    info = data.manifest.content_of(name)
    (checksum,) = (file.sha256 for file in data.manifest.files if file.path == info.path)
    return {name: UsedContent(info.identity, info.dim, checksum)}


def check_content(run: Path, origin: Origin, data: PreparedData, *, resumes: bool) -> None:
    """Checks that the vectors of items fit those that a run was trained with.

    Args:
        resumes: whether the run is trained on, which needs exactly the same vectors. Otherwise
            vectors of the same model are enough, so that new items may have been added.

    Raises:
        UserError: they do not fit.
    """
    for name, used in origin.content.items():
        info = data.manifest.content_of(name)
        (checksum,) = (file.sha256 for file in data.manifest.files if file.path == info.path)
        if (info.identity, info.dim) != (used.identity, used.dim):
            raise UserError(
                f"content '{name}' of '{data.folder}' was made otherwise than when '{run}' was "
                "trained: make it as it was, or train again"
            )
        if resumes and checksum != used.sha256:
            raise UserError(
                f"content '{name}' of '{data.folder}' has changed since '{run}' was started: start "
                "another run, with --init-from"
            )


def say_grown(run: Path, origin: Origin, config: RunConfig, data: PreparedData) -> None:
    """Logs how a run treats items that were added after its training, if there are any."""
    state = earlier_state(data, origin)
    if state is None or data.items == int(state["items"]):
        return
    log.info(
        "'%s' has %s more items than when '%s' was trained: %s",
        data.folder,
        f"{data.items - int(state['items']):,}",
        run,
        _NEW_ITEMS[config.embedding.unseen],
    )
