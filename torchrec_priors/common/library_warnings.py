"""Silences library warnings that users of this package can do nothing about."""

import logging
import threading
import warnings

from torchrec_priors.common.system_errors import one_line

_default_excepthook = threading.excepthook


def silence_library_warnings() -> None:
    """Silences these warnings for the rest of the process; all other warnings stay."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchrec\..*")
    warnings.filterwarnings(
        "ignore", category=FutureWarning, message=".*deprecating ShardedTensor.*"
    )
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Prints the traceback of a thread that failed, except for errors with a message of one line.

    For example, TensorBoard's thread fails when the disk is full. The main thread gets the same
    error at its next write, and the command ends with its one-line message.
    """
    if failed.exc_value is None or one_line(failed.exc_value) is None:
        _default_excepthook(failed)
