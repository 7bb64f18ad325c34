"""Reads tensors from a checkpoint without running anything that its files name.

`checkpoint.metadata` reads what the files hold; PyTorch's reader of weights only reads the tensors.
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
        metadata: the names, types and sizes of its tensors, and where they are in its files.

    Raises:
        UserError: `.metadata` is not what a checkpoint has.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)

        # Read at once: an unreadable file is then named before any collective begins.
        try:
            self.metadata = read_metadata(place)
        except (ValueError, OSError) as error:
            raise UserError(
                f"checkpoint '{place}' cannot be loaded ({DCP_METADATA}: {error}): "
                "remove it to use an older one"
            ) from error

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        """Returns what was read when the reader was created; the base class would unpickle it."""
        return self.metadata
