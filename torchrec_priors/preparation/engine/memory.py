"""Defines the error of an engine that has too little memory."""

from torchrec_priors.errors import UserError


class OutOfMemoryError(UserError):
    """The engine needs more memory than its limit.

    Finished stages are kept, so that another run with more memory resumes from them.
    """
