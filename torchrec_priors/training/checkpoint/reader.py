"""Reads tensors from a checkpoint without running any code that its files name.

`metadata.py` reads safely which tensors the files contain. The tensors themselves are read by
PyTorch, in its mode `weights_only`, which runs no code from files either.
"""

from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemReader, Metadata

from torchrec_priors.errors import UserError
from torchrec_priors.training.checkpoint.keys import DCP_METADATA
from torchrec_priors.training.checkpoint.metadata import read_metadata


class Reader(FileSystemReader):
    """Reads one checkpoint.

    Attributes:
        metadata: the names, types and sizes of the checkpoint's tensors, and their places in its
            files.

    Raises:
        UserError: the file `.metadata` is missing, damaged or not from this project.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)

        # The metadata is read here, so that an error is raised before any collective begins.
        try:
            self.metadata = read_metadata(place)
        except (ValueError, OSError) as error:
            raise UserError(
                f"checkpoint '{place}' cannot be loaded ({DCP_METADATA}: {error}): "
                "remove it to use an older one"
            ) from error

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        """Returns the metadata that `__init__` has read; the base class would unpickle the file."""
        return self.metadata
