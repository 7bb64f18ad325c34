"""Notes that libraries write to one another, which nobody who runs this package can act on."""

import logging
import threading
import warnings

from torchrec_priors.common.system_errors import one_line

_as_python_does = threading.excepthook


def silence_library_warnings() -> None:
    """Leaves them out; warnings of other packages are not touched."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchrec\..*")
    warnings.filterwarnings(
        "ignore", category=FutureWarning, message=".*deprecating ShardedTensor.*"
    )
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A thread that met a full disk, as TensorBoard's, hands the error to who writes next, which ends in one line."""
    if failed.exc_value is None or one_line(failed.exc_value) is None:
        _as_python_does(failed)
