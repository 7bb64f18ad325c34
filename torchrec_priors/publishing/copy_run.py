"""Copies from a run's folder what serving reads, and nothing else.

config.toml, data.json    the configuration, and the data set that the run was trained on
paths.json                the heads
seen.parquet              the items that have rows, if this depends on how often they occur
checkpoints/best.json, checkpoints/step-N/    the best checkpoint
"""

from collections.abc import Mapping
from pathlib import Path

from torchrec_priors.common.files import remove_leftover
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.files import checksum_of, copy_file
from torchrec_priors.training.checkpoint.folder import CheckpointFolder
from torchrec_priors.training.checkpoint.keys import DATA_FILES, MANIFEST
from torchrec_priors.training.checkpoint.manifest import (
    Checksum,
    NewerFormatError,
    read_manifest,
)
from torchrec_priors.training.run.folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    DATA,
    PATHS,
    SEEN,
    RunFolder,
)

_BEST = f"{CHECKPOINTS}/{BEST}"
# A training may replace its best checkpoint at any moment, so copying may take several attempts.
_ATTEMPTS = 3


class _FlawError(Exception):
    """The files of a checkpoint are not as they were written, or were replaced meanwhile."""


def copy_run(run: RunFolder, target: Path) -> dict[str, Checksum]:
    """Copies what serving reads. A training may work in the folder at the same time.

    Args:
        run: the folder of the run.
        target: the folder to create. If it exists, it is removed first.

    Returns:
        The length and checksum of each file, by its path in the folder.

    Raises:
        UserError: the run has no checkpoint yet, or the best one is damaged.
        OSError: the target cannot be written.
    """
    flaw = ""
    for _ in range(_ATTEMPTS):
        step = CheckpointFolder(run.checkpoints).best_step()
        if step is None:
            raise run.no_best_checkpoint()
        remove_leftover(target)
        try:
            return _copy_step(run, step, target)
        except _FlawError as error:
            flaw = str(error)
    raise UserError(
        f"--run: the best checkpoint of '{run.path}' is damaged, or is being replaced ({flaw}): "
        "put the file back, or wait until the training ends"
    )


def is_copy(run: RunFolder, files: Mapping[str, Checksum]) -> bool:
    """Returns whether files are a copy of the run with its present best checkpoint.

    Args:
        run: the folder of the run.
        files: what `copy_run` returned.
    """
    # These three files identify the run and the checkpoint.
    names = (CONFIG, DATA, _BEST)
    return all(checksum_of(run.path / name) == files.get(name) for name in names)


def _copy_step(run: RunFolder, step: int, target: Path) -> dict[str, Checksum]:
    """Copies a checkpoint with the other files.

    Raises:
        _FlawError: a file is missing or damaged, or another checkpoint has become the best.
    """
    place = CheckpointFolder(run.checkpoints).place(step)
    inside = f"{CHECKPOINTS}/{place.name}"
    (target / inside).mkdir(parents=True)
    names = [CONFIG, DATA, PATHS, _BEST]
    if run.seen.is_file():
        names.append(SEEN)

    recorded = _recorded(place)
    try:
        # A checkpoint of an earlier version has no manifest, so all its files are copied.
        of_checkpoint = [*recorded, MANIFEST] if recorded else _names(place)
        names += [f"{inside}/{name}" for name in of_checkpoint]
        copied = {name: copy_file(run.path / name, target / name) for name in names}
    except FileNotFoundError as error:
        raise _FlawError(f"'{error.filename}' is missing") from error

    for name, checksum in recorded.items():
        if copied[f"{inside}/{name}"] != checksum:
            raise _FlawError(f"'{place / name}' does not match its checksum")
    _check_best(target, step)
    return copied


def _recorded(place: Path) -> dict[str, Checksum]:
    """Returns what a checkpoint recorded of its files; nothing for one of an earlier version.

    Raises:
        _FlawError: the record is damaged or gone.
        NewerFormatError: a later release has written the checkpoint.
    """
    try:
        return read_manifest(place)
    except NewerFormatError:
        raise
    except FileNotFoundError as error:
        if list(place.glob(DATA_FILES)) or not place.is_dir():
            raise _FlawError(f"'{place / MANIFEST}' is missing") from error
        return {}
    except ValueError as error:
        raise _FlawError(f"'{place / MANIFEST}' cannot be read") from error


def _names(place: Path) -> list[str]:
    return [file.name for file in place.iterdir() if file.is_file()]


def _check_best(target: Path, step: int) -> None:
    """Checks that the copied `best.json` describes the copied checkpoint."""
    try:
        best = CheckpointFolder(target / CHECKPOINTS).best_step()
    except UserError as error:
        raise _FlawError(f"'{_BEST}' describes another checkpoint") from error
    if best != step:
        raise _FlawError(f"'{_BEST}' describes another checkpoint")
