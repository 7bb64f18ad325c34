"""Encodes the texts or images of a data set's items with a model, on any number of ranks.

    values of items --- without repetitions, and without those that have vectors already
         |
    pieces of 1,024 values --- each rank encodes every W-th piece, and writes it to a hidden folder
         |
    content/NAME.parquet --- rank 0 puts the vectors together

A value is a text or an image (`source.py`). A piece is named by a checksum of the model and of its
values (`pieces.py`). So a killed command continues, on any number of ranks.

Shapes: T distinct values, M items with a value, c width of the vectors.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist

from torchrec_priors.common.files import check_no_link, remove_leftover
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.content.pieces import Pieces
from torchrec_priors.content.sentence_model import checksum_of_model
from torchrec_priors.content.source import Source
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.content.put import check_replaceable, folder_of, put_content
from torchrec_priors.prepared.content import TEXT, VECTOR, matrix_of
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_files import as_numbers
from torchrec_priors.prepared.manifest import ContentInfo
from torchrec_priors.ranks.process import Ranks

PIECE = 1 << 10  # values
PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Encoded:
    """The result of `encode_items`.

    Attributes:
        info: the description of the content.
        values: T.
        known: the number of values whose vectors the data set had already.
        resumed: the number of values that a killed process had encoded.
    """

    info: ContentInfo
    values: int
    known: int
    resumed: int


def encode_items(
    data: PreparedData,
    name: str,
    model: Path,
    source: Source,
    ranks: Ranks,
    *,
    batch: int = 64,
    precision: str = "fp32",
    overwrite: bool = False,
    report: Report = lambda _: None,
) -> Encoded:
    """Encodes the values of all items and adds the vectors as content. Every rank must call it.

    Args:
        data: the data set.
        name: the name of the content.
        model: the folder of the model.
        source: the values.
        ranks: the processes that share the work.
        batch: number of values that are computed together.
        precision: that of matrix products, a key of `PRECISION`.
        overwrite: whether content of another model or other columns may be replaced.
        report: called with a line about the progress.

    Raises:
        UserError: the name is taken, the model cannot be loaded, or it can read no value.
    """
    folder = folder_of(data)
    report("reading the model")
    model_sha256 = checksum_of_model(model)
    if precision != "fp32":
        # Vectors of another precision are those of another model.
        model_sha256 += f" in {precision}"
    identity = f"model: {model_sha256} of {source.named}"
    check_replaceable(data.manifest, name, identity, overwrite)

    checksum_M = source.checksum_M
    distinct_T = checksum_M.unique()
    # Values whose vectors are in the data set are not encoded again.
    known = _known_vectors(data, model_sha256)
    found_T = as_numbers(pc.index_in(distinct_T, value_set=known.text))
    new = distinct_T.filter(pa.array(found_T < 0))
    values = source.value_M.take(pc.index_in(new, value_set=checksum_M))

    work = folder.absolute().with_name(f".{folder.absolute().name}.content-{name}")
    missing = _Work.of(work, model_sha256, new, values, source)
    if ranks.leads:
        check_no_link(work, work.parent)
        work.mkdir(exist_ok=True)
    dist.barrier(ranks.side)
    with explaining(f"--data: '{work}'"):
        resumed = missing.encode(model, ranks, batch, PRECISION[precision], report)
        # All pieces are there when all ranks have passed.
        dist.barrier(ranks.side)

        info = None
        if ranks.leads:
            report("writing the vectors")
            vector_Tc = _together(known, found_T, missing.vectors())
            is_read_T = np.isfinite(vector_Tc).all(1)
            if not is_read_T.any():
                raise UserError(f"--model: none of {len(is_read_T):,} {source.kind} can be read")
            place_M = as_numbers(pc.index_in(checksum_M, value_set=distinct_T))
            is_read_M = is_read_T[place_M]
            made_by = {
                "kind": "model",
                "model": model.name,
                "model_sha256": model_sha256,
                "precision": precision,
                "unreadable": int((~is_read_M).sum()),
                **source.made_by,
            }
            info = put_content(
                data,
                name,
                identity,
                made_by,
                source.item_M[is_read_M],
                vector_Tc[place_M[is_read_M]],
                text_M=checksum_M.filter(pa.array(is_read_M)),
                overwrite=overwrite,
            )
            remove_leftover(work)
    dist.barrier(ranks.side)
    if info is None:
        info = PreparedData(folder).manifest.content_of(name)
    return Encoded(info, len(distinct_T), len(distinct_T) - len(new), resumed)


@dataclass(frozen=True)
class _Known:
    """Vectors that the data set has.

    Attributes:
        text: the checksums of what they were made of, distinct.
        vectors: the vectors.
    """

    text: pa.Array
    vectors: np.ndarray


@dataclass(frozen=True)
class _Work:
    """The values to encode, in pieces.

    Attributes:
        pieces: where the vectors of pieces are written.
        values: the values.
        source: where they come from.
    """

    pieces: Pieces
    values: pa.Array
    source: Source

    @classmethod
    def of(
        cls,
        folder: Path,
        model_sha256: str,
        checksums: pa.Array,
        values: pa.Array,
        source: Source,
    ) -> "_Work":
        """Divides values into pieces.

        Args:
            folder: where the vectors of pieces are written.
            model_sha256: the checksum of the model.
            checksums: the checksums of the values.
            values: the values, in the same order.
            source: where they come from.
        """
        names = []
        for first in range(0, len(values), PIECE):
            part = checksums.slice(first, PIECE)
            content = model_sha256.encode() + b"".join(part.to_pylist())
            names.append(hashlib.sha256(content).hexdigest())
        return cls(Pieces(folder, names), values, source)

    def encode(
        self, model: Path, ranks: Ranks, batch: int, precision: torch.dtype, report: Report
    ) -> int:
        """Encodes this rank's pieces. Returns the number of all ranks' values that were there."""
        there = self.pieces.there()
        missing = [number for number in range(len(self.pieces)) if number not in there]
        # Pieces are counted before any rank writes one, so that all ranks share the same pieces.
        dist.barrier(ranks.side)

        own = missing[ranks.rank :: ranks.world]
        total = sum(self._size(number) for number in own)
        if own:
            encoder = self.source.load(model, ranks.device, precision)
            done = 0
            for number in own:
                report(f"encoding: {done:,} of {total:,} {self.source.kind} of this process")
                values = self.values.slice(number * PIECE, PIECE).to_pylist()
                self.pieces.write(number, encoder.encode(values, batch))
                done += len(values)
        return sum(self._size(number) for number in there)

    def vectors(self) -> np.ndarray | None:
        """Returns the vectors of all values, [values, c]; None if there are none to encode."""
        parts = [self.pieces.read(number) for number in range(len(self.pieces))]
        return np.concatenate(parts) if parts else None

    def _size(self, number: int) -> int:
        return min(PIECE, len(self.values) - number * PIECE)


def _known_vectors(data: PreparedData, model_sha256: str) -> _Known:
    """Returns the vectors that the same model has made of values of this data set before."""
    text = pa.array([], pa.binary(32))
    vectors = np.zeros((0, 0), np.float32)
    for info in data.manifest.content:
        if info.made_by.get("model_sha256") != model_sha256:
            continue
        table = data.content_table(info.name, [TEXT, VECTOR])
        matrix = matrix_of(table[VECTOR], info.dim)
        texts = table[TEXT].combine_chunks()
        # The first item with a value has its vector.
        first = as_numbers(pc.index_in(texts.unique(), value_set=texts))
        is_new = as_numbers(pc.index_in(texts.unique(), value_set=text)) < 0
        text = pa.concat_arrays([text, texts.unique().filter(pa.array(is_new))])
        vectors = np.concatenate([vectors.reshape(-1, info.dim), matrix[first[is_new]]])
    return _Known(text, vectors)


def _together(known: _Known, found_T: np.ndarray, new: np.ndarray | None) -> np.ndarray:
    """Returns the vectors of all values: known ones, and new ones in the order of the others.

    Args:
        known: the known vectors.
        found_T: where the vector of each value is among the known ones; -1 for new ones.
        new: the vectors of new values; None if there are none.
    """
    dim = known.vectors.shape[1] if new is None else new.shape[1]
    vector_Tc = np.empty((len(found_T), dim), np.float32)
    if new is not None:
        vector_Tc[found_T < 0] = new
    vector_Tc[found_T >= 0] = known.vectors.reshape(-1, dim)[found_T[found_T >= 0]]
    return vector_Tc
