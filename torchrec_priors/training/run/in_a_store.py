"""Fetches a run that is in a store, so that it can be read like a local one."""

import json
import logging
from pathlib import Path

from torchrec_priors.errors import UserError
from torchrec_priors.remote.hub import fetch_run, is_repository
from torchrec_priors.remote.mirror import mirror
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Place, Uri
from torchrec_priors.training.checkpoint.folder import checkpoint_name
from torchrec_priors.training.run import pushed
from torchrec_priors.training.run.folder import BEST, CHECKPOINTS, CONFIG, LOCK

log = logging.getLogger(__name__)


def local_run(place: Place) -> Path:
    """Returns a local folder with a run, to read it.

    A run in a store is fetched into the cache: its records and its best checkpoint. Nothing is
    written to the store; what is written into the folder, such as an evaluation, stays there for as
    long as the run in the store does not change.

    Args:
        place: the folder of the run; a local one is returned as it is.

    Raises:
        UserError: the store has no run there.
        OutsideError: the store does not answer.
    """
    if not isinstance(place, Uri):
        return place
    if is_repository(place):
        return fetch_run(place)
    store = Store(place, "--run")
    if not store.is_file(CONFIG):
        raise UserError(f"--run: '{place}' holds no run (no {CONFIG}): check the name")

    # A pushed run has no other files than those that are read.
    if store.is_file(pushed.FILE):
        return mirror(place, "--run", log.info, lambda path: not pushed.may_run_code(path))

    best = _best_checkpoint(store)

    def is_read(path: str) -> bool:
        folder, _, rest = path.rpartition("/")
        if not folder:
            return rest != LOCK
        return path == f"{CHECKPOINTS}/{BEST}" or folder == f"{CHECKPOINTS}/{best}"

    return mirror(place, "--run", log.info, is_read)


def _best_checkpoint(store: Store) -> str | None:
    """Returns the name of the best checkpoint; None if the store does not say it."""
    file = f"{CHECKPOINTS}/{BEST}"
    if not store.is_file(file):
        return None
    try:
        return checkpoint_name(int(json.loads(store.read(file))["step"]))
    except (ValueError, KeyError, TypeError):
        # Whoever loads the checkpoint reads the damaged file again, and names it.
        return None
