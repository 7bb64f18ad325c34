"""Folders of this user alone: the cache and the configuration; and whether others can write to a place."""

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Ours in the user's cache. Raises RuntimeError where the user has no home."""
    return _folder("XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Ours in the user's configuration. Raises RuntimeError where the user has no home."""
    return _folder("XDG_CONFIG_HOME", ".config")


def is_private(path: Path) -> bool:
    """Whether this user alone could have made it and can change it; a link is not.

    Raises:
        OSError: it is not there.
    """
    return is_private_status(path.lstat())


def is_private_status(status: os.stat_result) -> bool:
    """The same of a file that is open."""
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (
        status.st_uid == os.geteuid()
        and not stat.S_ISLNK(status.st_mode)
        and not writable_by_others
    )


def _folder(variable: str, default: str) -> Path:
    """An empty or relative path in the variable is none, as the XDG specification has it."""
    given = Path(os.environ.get(variable, ""))
    return (given if given.is_absolute() else Path.home() / default) / "torchrec_priors"
