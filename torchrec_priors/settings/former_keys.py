"""Keys that had another name in earlier releases. Both names are read; only the present one is
written.

Checksums are of the former names: so what earlier releases trained, evaluated and searched is
recognised as the same.
"""

from collections.abc import Mapping
from typing import Any

from torchrec_priors.errors import UserError

# Former name -> present name. Both are in the same section.
_PRESENT = {"negatives.met": "negatives.seen"}
_FORMER = {present: former for former, present in _PRESENT.items()}


def present_key(key: str) -> str:
    """The present name of a dotted key.

    >>> present_key("negatives.met"), present_key("model.dim")
    ('negatives.seen', 'model.dim')
    """
    return _PRESENT.get(key, key)


def former_key(key: str) -> str:
    """The name by which a dotted key counts in checksums."""
    return _FORMER.get(key, key)


def with_present_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values of a configuration under the present names of their keys, in the same order.

    Raises:
        UserError: a key is given under both names.

    >>> with_present_keys({"negatives": {"met": False, "total": 8}})
    {'negatives': {'seen': False, 'total': 8}}
    """
    return _renamed(values, _PRESENT)


def with_former_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same under the names that count in checksums."""
    return _renamed(values, _FORMER)


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    renamed = dict(values)
    for key, new_key in names.items():
        section, _, name = key.partition(".")
        new_name = new_key.partition(".")[2]
        given = renamed.get(section)
        if not isinstance(given, dict) or name not in given:
            continue

        if new_name in given:
            raise UserError(f"configuration keys '{key}' and '{new_key}' are the same: give one")
        # The key keeps its place: checksums are of text in the order of the keys.
        section_values = {}
        for own_name, value in given.items():
            section_values[new_name if own_name == name else own_name] = value
        renamed[section] = section_values
    return renamed
