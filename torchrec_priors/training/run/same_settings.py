"""Compares those settings of two runs that decide the results."""

import tomllib
from typing import Any

from torchrec_priors.settings.training import MAY_CHANGE

# A run may be resumed with other values for these settings and for all settings of these sections.
_NOT_DECISIVE = ("sharding",)
_MAY_CHANGE = {f"training.{name}" for name in MAY_CHANGE}


def decisive_settings(toml: str) -> dict[str, Any]:
    """Returns the nested settings of a run, without sections that do not decide its results.

    Args:
        toml: the configuration as text.
    """
    settings = tomllib.loads(toml)
    return {name: values for name, values in settings.items() if name not in _NOT_DECISIVE}


def first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    """Describes the first setting that differs and must not change; None if there is none.

    Args:
        old, new: the nested settings to compare.
        prefix: the names of the sections that contain the settings, each followed by a dot.
    """
    # Sorted, so that the message is the same in every process.
    for key in sorted({*old, *new}):
        before = old.get(key)
        after = new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = first_difference(before, after, f"{prefix}{key}.")
            if inner:
                return inner
        elif before != after and f"{prefix}{key}" not in _MAY_CHANGE:
            return f"{prefix}{key} = {before!r} there, {after!r} here"
    return None
