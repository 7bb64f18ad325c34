"""Checks arguments that are one of some words, because Python does not check a `Literal`."""

from torchrec_priors.errors import UserError


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raises UserError if the value of an argument is none of the valid ones."""
    if value not in valid:
        raise UserError(f"{name}: '{value}' is none of {', '.join(valid)}")
