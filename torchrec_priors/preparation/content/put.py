"""Writes `content/NAME.parquet` and the manifest that lists it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from torchrec_priors.common.files import check_no_link, new_file, write_whole
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.preparation.build.check import check_name
from torchrec_priors.preparation.priors.add_prior import locked
from torchrec_priors.prepared.content import ITEM, TEXT, VECTOR
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import (
    FILE,
    ContentInfo,
    FileInfo,
    Manifest,
    describe_file,
    hash_of,
    read_manifest,
)
from torchrec_priors.remote.uri import Uri

_ROWS = 1 << 14  # vectors of a row group


def folder_of(data: PreparedData) -> Path:
    """Returns the folder of a data set to which content can be added.

    Raises:
        UserError: the data set is in a store.
    """
    if isinstance(data.folder, Uri):
        raise UserError(
            f"--data: content is added to a local data set: copy '{data.folder}' to this machine, "
            "and upload it afterwards"
        )
    return data.folder


def check_replaceable(manifest: Manifest, name: str, identity: str, overwrite: bool) -> None:
    """Raises UserError if content with this name cannot be added.

    Content may be replaced by newer content with the same identity, for example after an append.
    """
    check_name(name, "--name")
    present = next((info for info in manifest.content if info.name == name), None)
    if present is not None and present.identity != identity and not overwrite:
        raise UserError(
            f"--name: content '{name}' was made otherwise, and runs may use it: choose another "
            "name, or --overwrite"
        )


def put_content(
    data: PreparedData,
    name: str,
    identity: str,
    made_by: dict[str, Any],
    item_M: np.ndarray,
    vector_Mc: np.ndarray,
    *,
    text_M: pa.Array | None = None,
    overwrite: bool = False,
) -> ContentInfo:
    """Adds vectors to a data set; see `put_file`.

    Args:
        data: the data set.
        name, identity, made_by: see `ContentInfo`.
        item_M: row ids of the items with a vector, ascending.
        vector_Mc: their vectors.
        text_M: checksums of their texts, if a sentence model made the vectors.
        overwrite: whether content of another identity may be replaced.
    """
    info = ContentInfo(name, len(item_M), vector_Mc.shape[1], identity, made_by)

    def write(file: Path) -> None:
        _write(file, item_M, vector_Mc, text_M)

    put_file(data, info, write, overwrite=overwrite)
    return info


def put_file(
    data: PreparedData,
    info: ContentInfo,
    write: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> None:
    """Adds a file of content to a data set, which stays complete even if the process is killed.

    The file and the manifest cannot change at the same moment. Therefore content that is replaced
    is first removed from the manifest, as `add_prior` does it.

    Args:
        data: the data set.
        info: describes the content.
        write: writes the file.
        overwrite: whether content of another identity may be replaced.

    Raises:
        UserError: the name is taken, the data has changed in the meantime, or the folder cannot be
            written.
    """
    folder = folder_of(data)
    file = folder / info.path
    check_no_link(file.parent, folder)
    ready = folder / f".{FILE}.ready"

    with explaining(f"--data: '{folder}'"), locked(folder):
        # These checks need the lock, because another process may have changed the data set.
        manifest = read_manifest(folder)
        if manifest.prepared_sha256 != data.manifest.prepared_sha256:
            raise UserError(
                f"--data: '{folder}' was prepared again in the meantime: run this again"
            )
        check_replaceable(manifest, info.name, info.identity, overwrite)

        file.parent.mkdir(exist_ok=True)
        try:
            with new_file(file) as partial:
                write(partial)
                without = _changed(manifest, info, None)
                made = _changed(manifest, info, describe_file(partial, info.path))
                write_whole(ready, made.text())
                if len(without.content) < len(manifest.content):
                    without.write(folder)

            # This move adds the content to the data set.
            ready.replace(folder / FILE)
        finally:
            ready.unlink(missing_ok=True)


def _write(file: Path, item_M: np.ndarray, vector_Mc: np.ndarray, text_M: pa.Array | None) -> None:
    """Writes the vectors, some at a time."""
    kinds = [(ITEM, pa.int32()), (VECTOR, pa.list_(pa.float32()))]
    if text_M is not None:
        kinds.append((TEXT, text_M.type))
    schema = pa.schema(kinds)

    with ParquetWriter(file, schema) as writer:
        for first in range(0, max(len(item_M), 1), _ROWS):
            part = vector_Mc[first : first + _ROWS]
            offsets = np.arange(len(part) + 1, dtype=np.int32) * vector_Mc.shape[1]
            flat = pa.array(np.ascontiguousarray(part, np.float32).ravel())
            columns = [
                pa.array(item_M[first : first + _ROWS].astype(np.int32)),
                pa.ListArray.from_arrays(pa.array(offsets), flat),
            ]
            if text_M is not None:
                columns.append(text_M.slice(first, _ROWS))
            writer.write_table(pa.table(columns, schema), _ROWS)


def _changed(manifest: Manifest, info: ContentInfo, written: FileInfo | None) -> Manifest:
    """Returns the manifest with this content, or without any content of this name."""
    content = [other for other in manifest.content if other.name != info.name]
    files = [file for file in manifest.files if file.path != info.path]
    if written is not None:
        content.append(info)
        files.append(written)

    # The order is part of the hash, so it must not depend on when something was added.
    ordered = sorted(files, key=lambda file: Path(file.path))
    content.sort(key=lambda other: other.name)
    return replace(manifest, content=content, files=ordered, content_sha256=hash_of(ordered))
