"""Values of a configuration by dotted key, and what is refused."""

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.settings.run_config import RunConfig


def value_of(config: RunConfig, key: str):
    """The value of a dotted key."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def refused(call, *arguments) -> str:
    """The message of a UserError: one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
