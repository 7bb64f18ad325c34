"""Finds the run that another run takes its initial weights from (`--init-from`).

The folder of that run may have been moved. It is only needed until the new run has a checkpoint.
"""

from pathlib import Path

from torchrec_priors.errors import UserError
from torchrec_priors.training.checkpoint.folder import CheckpointFolder
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.origin import Origin


def source_of(folder: RunFolder, given: RunFolder | None) -> RunFolder | None:
    """Returns the run that the run in `folder` takes its initial weights from.

    It is None if there is no such run, or if the run in `folder` has a checkpoint and so no
    longer needs it.

    Args:
        folder: the folder of the run that is started or resumed.
        given: the run that `--init-from` names; None without this option.

    Raises:
        UserError: `given` is not a run or is a plain baseline, or it is not the run that the run in
            `folder` was started from. Or the initial weights are still needed, but the run they
            come from is gone.
    """
    # A new run may start from any run that can be read.
    if not folder.was_started:
        if given is not None:
            config, _ = given.open(option="--init-from")
            if config.plain.name:
                raise UserError(
                    f"--init-from: '{given.path}' is a plain baseline ({config.plain.name}), which "
                    "has no weights to start from"
                )
        return given

    origin = folder.origin()
    if origin.init_from is None:
        if given is not None:
            raise UserError(
                f"--init-from: '{folder.path}' was not started from another run: choose another "
                "folder for --run"
            )
        return None

    has_checkpoint = bool(CheckpointFolder(folder.checkpoints).steps())
    named = None if given is None else str(given.path.absolute())
    # A run with a checkpoint does not need the other run, which may have been removed.
    if has_checkpoint and named in (None, origin.init_from):
        return None

    source = given or RunFolder(Path(origin.init_from), folder.trust)
    if not source.was_started and named in (None, origin.init_from):
        raise UserError(
            f"--init-from: '{folder.path}' has no checkpoint yet, and the run that it starts from "
            f"is not in '{origin.init_from}' any more: say where it is now, or choose another "
            "folder for --run"
        )

    source.open(option="--init-from")
    if not _is_the_same(source, origin):
        raise UserError(
            f"--init-from: '{folder.path}' was started from another run, which was in "
            f"'{origin.init_from}': choose another folder for --run"
        )
    return None if has_checkpoint else source


def _is_the_same(source: RunFolder, origin: Origin) -> bool:
    """Returns whether `source` is the run that `origin` recorded."""
    if origin.init_from_id is not None:
        return source.identity() == origin.init_from_id

    # An earlier version recorded only the path. If the path no longer exists, the run may
    # have been moved, and the run that the user names is accepted.
    assert origin.init_from is not None
    recorded = Path(origin.init_from)
    return source.path.absolute() == recorded or not recorded.exists()
