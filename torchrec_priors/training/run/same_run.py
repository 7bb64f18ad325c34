"""Checks that a run may begin or go on in a folder: the folder is unused, or holds the same run."""

from pathlib import Path

from torchrec_priors.common.own_code import check_trusted
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.config_file import read_config
from torchrec_priors.training.run.folder import (
    CHECKPOINTS,
    CONFIG,
    DATA,
    LOCK,
    PATHS,
    SEEN,
    TRAINED,
    RunFolder,
)
from torchrec_priors.training.run.recorded_data import check_content, check_priors
from torchrec_priors.training.run.same_settings import decisive_settings, first_difference

# Files and folders that may exist before the configuration is written.
_BEFORE_CONFIG = (PATHS, SEEN, TRAINED, DATA, CHECKPOINTS, LOCK)


def check_same_run(folder: RunFolder, config: RunConfig, data: PreparedData) -> None:
    """Checks that the folder is unused or holds the run of this configuration and data set.

    Raises:
        UserError: the folder holds another run or other files, or the run's files are damaged.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"--run: '{folder.path}' is a file: name a folder")
    # A run may begin in a new or empty folder.
    if not folder.was_started:
        _check_unused(folder)
        return
    if folder.was_pushed:
        raise UserError(
            f"--run: '{folder.path}' holds a pushed run, which is only read: choose another folder"
        )

    folder.check_writable()
    origin = folder.origin()
    recorded = read_config(folder.path / CONFIG, signed=origin.signed, run_id=origin.run_id)
    # If an earlier release recorded the configuration, settings that were added since then have
    # their defaults in `recorded`.
    difference = first_difference(
        decisive_settings(recorded.to_toml()), decisive_settings(config.to_toml())
    )
    if difference:
        raise UserError(
            f"--run: '{folder.path}' holds a run of another configuration ({difference}): choose "
            "another folder"
        )

    if origin.content_sha256 != data.manifest.prepared_sha256:
        raise UserError(
            f"--run: '{folder.path}' was trained on other data than '{data.folder}': choose "
            "another folder"
        )
    # The user, and not the folder, names the files of custom code here, so they are trusted.
    check_trusted(config.own_files(), origin.own_files, folder.path, trust=True)
    check_priors(folder.path, origin, data)
    check_content(folder.path, origin, data, resumes=True)


def _check_unused(folder: RunFolder) -> None:
    """Checks that the folder holds nothing, except files of a run that was killed at its start.

    Raises:
        UserError: the folder holds something else.
    """
    if not folder.path.exists():
        return

    # Checkpoints are written only after the configuration. So if there are any, the
    # configuration has been removed.
    has_checkpoints = folder.checkpoints.is_dir() and any(folder.checkpoints.iterdir())
    if (folder.path / DATA).is_file() and has_checkpoints:
        raise UserError(
            f"--run: '{folder.path / CONFIG}' is missing: put it back, or choose another folder"
        )

    for path in folder.path.iterdir():
        if path.name not in _BEFORE_CONFIG and not _is_hidden_part(path):
            raise UserError(
                f"--run: '{folder.path}' is not empty and holds no run: choose another folder"
            )


def _is_hidden_part(path: Path) -> bool:
    """Returns whether this is an incomplete file that a killed process has left."""
    return path.name.startswith(".") and path.name.endswith(".partial")
