"""Adds a user's own vectors of items to a data set, as content."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.content.put import check_replaceable, folder_of, put_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo
from torchrec_priors.prepared.vector_files import VectorFile

_OPTION = "--vectors"


@dataclass(frozen=True)
class Added:
    """Content that was added.

    Attributes:
        info: its description.
        messages: lines for the user about what was counted.
    """

    info: ContentInfo
    messages: list[str]


def add_vectors(
    data: PreparedData,
    name: str,
    file: Path,
    ids: Path | None = None,
    *,
    made_with: str = "",
    overwrite: bool = False,
) -> Added:
    """Adds the vectors of a file.

    Args:
        data: the data set.
        name: the name of the content.
        file, ids: the file of the vectors (see `VectorFile`).
        made_with: a name of the model that made the vectors. Vectors of other models cannot
            replace them, because trained runs may use them.
        overwrite: whether they can all the same.

    Raises:
        UserError: the file is not right, or the name is taken.
    """
    folder_of(data)
    identity = f"vectors: {made_with}"
    check_replaceable(data.manifest, name, identity, overwrite)
    is_array = file.suffix == ".npy"
    if is_array and ids is None:
        raise UserError(f"{_OPTION}: '{file}' has no ids: give the file of its items with --ids")
    if ids is not None and not is_array:
        raise UserError(f"--ids is for a .npy file: '{file}' has a column item_id")

    vectors = VectorFile(file, data, _OPTION, ids=ids)
    parts = list(vectors.batches())
    item_M = np.concatenate([items for items, _ in parts])
    vector_Mc = np.concatenate([rows for _, rows in parts])
    order = np.argsort(item_M)
    item_M = item_M[order]
    vector_Mc = vector_Mc[order]

    # A vector of zeros has no direction, so it says nothing about an item.
    described_M = vector_Mc.any(1)
    zeros = int((~described_M).sum())
    if zeros == len(item_M):
        raise UserError(f"{_OPTION}: all vectors of '{file}' are zeros")
    item_M = item_M[described_M]
    vector_Mc = vector_Mc[described_M]

    made_by = {
        "kind": "vectors",
        "file": file.name,
        "sha256": sha256(file),
        "made_with": made_with,
        "unknown_items": vectors.unknown,
        "zeros": zeros,
    }
    info = put_content(data, name, identity, made_by, item_M, vector_Mc, overwrite=overwrite)
    return Added(info, counted(data, info, vectors.unknown, zeros))


def counted(data: PreparedData, info: ContentInfo, unknown: int = 0, zeros: int = 0) -> list[str]:
    """Returns lines about the items with and without content.

    Args:
        unknown: the number of vectors of items that the data set lacks.
        zeros: the number of vectors that were left out because they are zeros.
    """
    what = f"a vector of {info.dim:,} numbers"
    if info.has_tokens:
        what = f"a text of at most {info.dim:,} tokens"
    lines = [
        f"content {info.name}: {info.items:,} of {data.items:,} items have {what}, "
        f"{data.items - info.items:,} have none"
    ]
    if unknown:
        lines.append(f"{unknown:,} vectors of items that the data set lacks were left out")
    if zeros:
        lines.append(f"{zeros:,} vectors of zeros were left out")
    return lines
