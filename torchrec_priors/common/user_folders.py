"""Finds the user's folders for cache and configuration, and checks who else can write there."""

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Returns this project's folder in the user's cache.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return _folder("XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Returns this project's folder in the user's configuration.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return _folder("XDG_CONFIG_HOME", ".config")


def is_private(path: Path) -> bool:
    """Returns whether a file or folder belongs to this user and nobody else can write to it.

    A link is never private.

    Raises:
        OSError: the path does not exist.
    """
    return is_private_status(path.lstat())


def is_private_status(status: os.stat_result) -> bool:
    """Does the same as `is_private`, from the status of a path or of an open file."""
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (
        status.st_uid == os.geteuid()
        and not stat.S_ISLNK(status.st_mode)
        and not writable_by_others
    )


def _folder(variable: str, default: str) -> Path:
    """Returns this project's folder in the parent folder that an environment variable names.

    Without the variable, the parent is the folder `default` in the user's home.
    """
    # The XDG specification says that an empty or relative path must be ignored.
    given = Path(os.environ.get(variable, ""))
    parent = given if given.is_absolute() else Path.home() / default
    return parent / "torchrec_priors"
