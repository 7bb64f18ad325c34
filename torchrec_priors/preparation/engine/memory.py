"""What is said where an engine has too little memory."""

from torchrec_priors.errors import UserError


class OutOfMemoryError(UserError):
    """The engine needs more than it may use; what is finished stays, for another try with more."""
