"""Makes a configuration from whatever a Python program has for one."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchrec_priors.config import load_config, read_override, with_changes, write_override
from torchrec_priors.settings.run_config import RunConfig

# A file or the name of a shipped configuration, values, a configuration, or None for the defaults.
ConfigSource = str | Path | Mapping[str, Any] | RunConfig | None
# Values by dotted key, or texts such as "model.dim=64".
Changes = Mapping[str, Any] | Iterable[str] | None


def config_of(source: ConfigSource, changes: Changes = None, *, trust: bool = False) -> RunConfig:
    """Returns the configuration that a Python program has given, with some values changed.

    Args:
        source: the path of a TOML file, the name of a configuration that comes with the project,
            values in nested dictionaries or with dotted keys, a `RunConfig`, or None.
        changes: values by dotted key, such as `{"model.dim": 64}`, or texts as on the command line.
        trust: as for `load_config`.

    Raises:
        UserError: as for `load_config`.
    """
    changed = _pairs(changes)
    if isinstance(source, RunConfig):
        return with_changes(asdict(source), changed)
    if isinstance(source, Mapping):
        # Changes are put into sections, which must not be those of the caller.
        return with_changes({}, [*copy.deepcopy(dict(source)).items(), *changed])
    overrides = [write_override(key, value) for key, value in changed]
    return load_config(source, overrides, trust=trust)


def overrides_of(changes: Changes) -> list[str]:
    """Returns changes as texts such as `model.dim=64`."""
    if changes is None or isinstance(changes, Mapping):
        return [write_override(key, value) for key, value in _pairs(changes)]
    return list(changes)


def _pairs(changes: Changes) -> list[tuple[str, Any]]:
    if changes is None:
        return []
    if isinstance(changes, Mapping):
        return list(changes.items())
    return [read_override(change) for change in changes]
