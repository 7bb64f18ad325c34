"""Values of a configuration by dotted key, and what is refused."""

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.settings.run_config import RunConfig


def value_of(config: RunConfig, key: str):
    """The value of a dotted key."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def nested(flat: dict) -> dict:
    """Nested sections from values by dotted key."""
    values: dict = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return values


def refused(call, *arguments) -> str:
    """The message of a UserError: one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
