"""Reads tensors out of a checkpoint: nothing that its files say is run.

What the files hold is read by `checkpoint_metadata`, tensors themselves by PyTorch's reader of weights alone.
"""

from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemReader, Metadata

from torchrec_priors.errors import UserError
from torchrec_priors.training.checkpoint.files import DCP_METADATA
from torchrec_priors.training.checkpoint.metadata import read_metadata


class Reader(FileSystemReader):
    """Of one checkpoint.

    Attributes:
        metadata: what it holds.

    Raises:
        UserError: `.metadata` is not what a checkpoint has.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        try:
            self.metadata = read_metadata(place)
        except (ValueError, OSError) as error:
            raise UserError(
                f"checkpoint '{place}' cannot be loaded ({DCP_METADATA}: {error}): remove it to use an older one"
            ) from error

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        return self.metadata
