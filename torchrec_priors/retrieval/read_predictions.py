"""Opening `predictions.parquet`, and checking that the metrics next to it were computed with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.parquet import ParquetReader, read_footer

# In metrics.json: the checksum of the file's footer, which holds the checksums of everything else.
NOTED = "predictions_sha256"


def noted_of(predictions: Path) -> dict[str, str]:
    """What metrics.json says of the file."""
    return {NOTED: read_footer(predictions).sha256}


def open_predictions(predictions: Path, metrics: Mapping[str, Any]) -> ParquetReader:
    """Opens the file that metrics were computed with.

    Args:
        metrics: what metrics.json says. Earlier versions noted no checksum of the file, which is
            then not compared.

    Raises:
        DamagedParquetError: the file is damaged, or belongs to another evaluation.
        OSError: it cannot be read.
    """
    return ParquetReader(predictions, read_footer(predictions, metrics.get(NOTED, "")))
