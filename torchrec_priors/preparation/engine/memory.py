"""The error of an engine that has too little memory."""

from torchrec_priors.errors import UserError


class OutOfMemoryError(UserError):
    """The engine needs more memory than it may use.

    What is finished stays: another try with more memory resumes there.
    """
