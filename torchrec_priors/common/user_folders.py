"""The user's folders for the cache and the configuration, and whether others can write there."""

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Our folder in the user's cache. Raises RuntimeError if the user has no home."""
    return _folder("XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Our folder in the user's configuration. Raises RuntimeError if the user has no home."""
    return _folder("XDG_CONFIG_HOME", ".config")


def is_private(path: Path) -> bool:
    """Whether only this user could have created it and can change it; a link is not private.

    Raises:
        OSError: it does not exist.
    """
    return is_private_status(path.lstat())


def is_private_status(status: os.stat_result) -> bool:
    """The same for a file that is open."""
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (
        status.st_uid == os.geteuid()
        and not stat.S_ISLNK(status.st_mode)
        and not writable_by_others
    )


def _folder(variable: str, default: str) -> Path:
    """Our folder in the one that a variable names, or in `default` of the user's home."""
    # The XDG specification says to ignore an empty or relative path.
    given = Path(os.environ.get(variable, ""))
    parent = given if given.is_absolute() else Path.home() / default
    return parent / "torchrec_priors"
