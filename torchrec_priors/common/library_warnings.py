"""Silences warnings of libraries on which no user of this package can act."""

import logging
import threading
import warnings

from torchrec_priors.common.system_errors import one_line

_default_excepthook = threading.excepthook


def silence_library_warnings() -> None:
    """Silences them; warnings of other packages stay."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchrec\..*")
    warnings.filterwarnings(
        "ignore", category=FutureWarning, message=".*deprecating ShardedTensor.*"
    )
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Prints the error of a thread, unless it is one that ends a command in one line."""
    # A thread that ran into a full disk, such as TensorBoard's, gives its error to the next writer,
    # and that one ends in one line.
    if failed.exc_value is None or one_line(failed.exc_value) is None:
        _default_excepthook(failed)
