"""What is encoded: the texts of items, or their images.

Each value has a checksum. A model encodes equal values once, and never again.

Shapes: M items with a value, B values that are encoded together, c width of the vectors.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from torchrec_priors.common.checksums import sha256
from torchrec_priors.content.image_model import ImageModel
from torchrec_priors.content.sentence_model import SentenceModel
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.content.texts import item_texts
from torchrec_priors.prepared.data_set import PreparedData

_CHECKSUM = pa.binary(32)


class Encoder(Protocol):
    """A model in memory that makes vectors of values."""

    def encode(self, values: list[str], batch: int) -> np.ndarray:
        """Returns the vector of each value, float32 [B, c]; NaN if a value cannot be read.

        Args:
            values: the values.
            batch: number of values that are computed together.
        """
        ...


@dataclass(frozen=True)
class Source:
    """The values that a model makes vectors of.

    Attributes:
        kind: `texts` or `images`.
        named: the names of their columns, which are part of the content's identity.
        made_by: what the manifest records about them.
        item_M: row ids of the items with a value, ascending.
        value_M: texts, or paths of images.
        checksum_M: the SHA-256 of each text, or of each image's file.
        load: loads the model of a folder on a device, with a precision of matrix products.
        missing: the number of items whose image does not exist.
    """

    kind: str
    named: str
    made_by: dict[str, Any]
    item_M: np.ndarray
    value_M: pa.Array
    checksum_M: pa.Array
    load: Callable[[Path, torch.device, torch.dtype], Encoder]
    missing: int = 0


def texts_of(data: PreparedData, columns: list[str]) -> Source:
    """Returns the texts of all items.

    Args:
        data: the data set.
        columns: where the texts come from (`item_texts`).

    Raises:
        UserError: a column does not exist, or no item has a text.
    """
    text_I = item_texts(data, columns)
    has_text_I = pc.not_equal(text_I, "")
    text_M = text_I.filter(has_text_I)
    if not len(text_M):
        raise UserError(f"--columns: no item has a text in {', '.join(columns)}")

    digests = [hashlib.sha256(text.encode()).digest() for text in text_M.to_pylist()]
    return Source(
        kind="texts",
        named=", ".join(columns),
        made_by={"columns": columns},
        item_M=np.flatnonzero(has_text_I.to_numpy(zero_copy_only=False)),
        value_M=text_M,
        checksum_M=pa.array(digests, _CHECKSUM),
        load=SentenceModel,
    )


def images_of(data: PreparedData, column: str, folder: Path) -> Source:
    """Returns the images of all items that have one.

    Args:
        data: the data set.
        column: the column of the catalogue with the paths of the images.
        folder: the folder that relative paths start from.

    Raises:
        UserError: the column does not exist or has no paths, or no image exists.
    """
    catalogue = data.catalogue()
    if column not in catalogue.column_names:
        raise UserError(
            f"--images: the data set has no column '{column}': "
            f"{nearest(column, catalogue.column_names)}"
        )
    paths = catalogue[column].combine_chunks()
    if not pa.types.is_string(paths.type) and not pa.types.is_large_string(paths.type):
        raise UserError(f"--images: column '{column}' holds {paths.type}: give paths of files")

    items = []
    found = []
    digests = []
    missing = 0
    for item, path in enumerate(paths.to_pylist()):
        if not path:
            continue
        file = folder / path
        if not file.is_file():
            missing += 1
            continue
        items.append(item)
        found.append(str(file))
        digests.append(bytes.fromhex(sha256(file)))
    if not items:
        raise UserError(
            f"--images: no file of column '{column}' exists in '{folder}' ({missing:,} paths): "
            "name the folder that they start from with --image-folder"
        )
    return Source(
        kind="images",
        named=f"images of {column}",
        made_by={"images": column},
        item_M=np.array(items),
        value_M=pa.array(found, pa.string()),
        checksum_M=pa.array(digests, _CHECKSUM),
        load=ImageModel,
        missing=missing,
    )
