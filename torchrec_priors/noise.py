"""Notes that torch and TorchRec write to one another, which nobody who runs this package can act on."""

import logging
import warnings


def hush() -> None:
    """Leaves them out; warnings of other packages are not touched."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchrec\..*")
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*deprecating ShardedTensor.*")
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
