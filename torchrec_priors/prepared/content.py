"""Reads vectors that describe items from `content/NAME.parquet`.

The file has a row for each item with a vector: `item` (row id, ascending), `vector` (list of
float32) and, if a model made the vectors, `text_sha256` (the checksum of the item's text or image).

Shapes: M items with a vector, c width of the vectors.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo

ITEM = "item"
VECTOR = "vector"
TEXT = "text_sha256"


@dataclass(frozen=True)
class Content:
    """Vectors that describe items.

    Attributes:
        info: the manifest's description of the vectors.
        item_M: int64 row ids of the items with a vector, ascending.
        vector_Mc: float32, the vectors of these items.
    """

    info: ContentInfo
    item_M: np.ndarray
    vector_Mc: np.ndarray


def read_content(data: PreparedData, name: str, option: str = "embedding.content") -> Content:
    """Reads the vectors with this name.

    Args:
        data: the data set.
        name: the name of the content.
        option: what named the content, for the message of an error.

    Raises:
        UserError: the data set has no such vectors, or the file is damaged.
    """
    info = data.manifest.content_of(name)
    if info.has_tokens:
        raise UserError(f"{option}: '{name}' holds tokens, which items.content reads: name vectors")
    table = data.content_table(name, [ITEM, VECTOR])
    item_M = items_of(table, info, data)
    return Content(info, item_M, matrix_of(table[VECTOR], info.dim))


def items_of(table: pa.Table, info: ContentInfo, data: PreparedData) -> np.ndarray:
    """Returns the row ids of the items with content, int64 [M].

    Raises:
        UserError: they are not items of the data set, in ascending order.
    """
    # Content is looked up by row id without further checks.
    item_M: np.ndarray = table[ITEM].to_numpy().astype(np.int64)
    ascending = not len(item_M) or (item_M[0] >= 0 and (np.diff(item_M) > 0).all())
    if not ascending or (len(item_M) and item_M[-1] >= data.items) or len(item_M) != info.items:
        raise UserError(
            f"{data.folder / info.path} does not fit the catalogue of {data.items:,} items: add "
            "the content again"
        )
    return item_M


def matrix_of(vectors: pa.ChunkedArray, dim: int) -> np.ndarray:
    """Returns a column of lists of `dim` numbers as a matrix, float32.

    Raises:
        UserError: the lists do not have this length.
    """
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in vectors.chunks]
    flat = np.concatenate([np.zeros(0, np.float32), *parts])
    if len(flat) != len(vectors) * dim:
        raise UserError(f"vectors of content do not have {dim} numbers each: add the content again")
    return flat.reshape(-1, dim)
