"""Renames keys that had another name in earlier releases.

A configuration may contain the former or the present name of a key. Only present names are written.
Checksums are computed with former names, so that runs, evaluations and searches of earlier releases
are still recognised.
"""

from collections.abc import Mapping
from typing import Any

from torchrec_priors.errors import UserError

# The present name of each former name. Both are in the same section.
_PRESENT = {"negatives.met": "negatives.seen"}
_FORMER = {present: former for former, present in _PRESENT.items()}


def present_key(key: str) -> str:
    """Returns the present name of a dotted key.

    >>> present_key("negatives.met"), present_key("model.dim")
    ('negatives.seen', 'model.dim')
    """
    return _PRESENT.get(key, key)


def former_key(key: str) -> str:
    """Returns the name that a dotted key has in checksums."""
    return _FORMER.get(key, key)


def with_present_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested values with the present names of their keys, in the same order.

    Raises:
        UserError: a key is given under both names.

    >>> with_present_keys({"negatives": {"met": False, "total": 8}})
    {'negatives': {'seen': False, 'total': 8}}
    """
    return _renamed(values, _PRESENT)


def with_former_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested values with the names that keys have in checksums, in the same order."""
    return _renamed(values, _FORMER)


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns nested values with some keys renamed.

    Args:
        names: for each key to rename, its new name. Old and new names are dotted.
    """
    renamed = dict(values)
    for key, new_key in names.items():
        section, _, name = key.partition(".")
        new_name = new_key.partition(".")[2]
        given = renamed.get(section)
        if not isinstance(given, dict) or name not in given:
            continue

        if new_name in given:
            raise UserError(f"configuration keys '{key}' and '{new_key}' are the same: give one")
        # The key keeps its position, because a checksum depends on the order of the keys.
        section_values = {}
        for old_name, value in given.items():
            section_values[new_name if old_name == name else old_name] = value
        renamed[section] = section_values
    return renamed
