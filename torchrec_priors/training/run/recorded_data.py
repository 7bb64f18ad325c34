"""What a run recorded of its data, compared with the data as it is now."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.config import RunConfig
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.run.origin import Origin

log = logging.getLogger(__name__)

# What becomes of new items, by `embedding.unseen`.
_NEW_ITEMS = {
    "own": "they have no rows: left out, never recommended (embedding.unseen may be dropped, "
    "shared, hashed or managed)",
    "dropped": "left out and never recommended",
    "shared": "they have the shared row and are never recommended",
    "hashed": "they have hashed rows",
    "managed": "they have no rows of their own and are not recommended until training meets them",
}


@dataclass(frozen=True)
class TrainedOn:
    """What a run that was started recorded of its data.

    Attributes:
        paths: the file of the training positives of its paths.
        items: the number of items that the data set had.
        seen_I: bool, items that were seen often enough; None if all items have their own rows.
        groups: the number of groups that each prior had, if the data set has grown since; else
            None.
    """

    paths: Path
    items: int
    seen_I: np.ndarray | None
    groups: dict[str, int] | None


def earlier_state(data: PreparedData, origin: Origin) -> dict[str, Any] | None:
    """Returns the state of a data set when a run was trained on it.

    None if the data set has not grown since, or is another one.
    """
    if data.manifest.prepared_sha256 == origin.content_sha256:
        return None
    # Data grows state by state, and the manifest keeps them all.
    states = [
        state for state in data.manifest.grown if state["prepared_sha256"] == origin.content_sha256
    ]
    return states[-1] if states else None


def added_priors(config: RunConfig, data: PreparedData) -> dict[str, str]:
    """Returns checksums of the priors added to the data that a run uses, by name."""
    # A level of the tree is a prior, or a kind with a prior as its argument: "random:genre".
    names = {part for level in config.priors.tree for part in (level, *level.split(":"))}
    added = data.manifest.added_priors()

    # The user's own files may read any of them.
    if config.own_files():
        return added
    return {name: checksum for name, checksum in added.items() if name in names}


def check_priors(run: Path, origin: Origin, data: PreparedData) -> None:
    """Checks that the added priors that the run uses are the same, or have grown from those.

    Raises:
        UserError: one is missing or has changed.
    """
    added = data.manifest.added_priors()
    for name, checksum in origin.priors.items():
        if name not in added:
            raise UserError(
                f"'{run}' was trained with prior '{name}', which '{data.folder}' lacks: "
                "add it again"
            )

        # A prior of grown data has the checksums of what it has grown from.
        if checksum not in (added[name], *data.manifest.prior(name).grown_from):
            raise UserError(
                f"prior '{name}' of '{data.folder}' has changed since '{run}' was "
                "trained: make it as it was, or train again"
            )


def say_grown(run: Path, origin: Origin, config: RunConfig, data: PreparedData) -> None:
    """Logs what becomes of items that came after the run was trained, if there are any."""
    state = earlier_state(data, origin)
    if state is None or data.items == int(state["items"]):
        return
    log.info(
        "'%s' has %s items more than when '%s' was trained: %s",
        data.folder,
        f"{data.items - int(state['items']):,}",
        run,
        _NEW_ITEMS[config.embedding.unseen],
    )
