"""Opening `predictions.parquet` as the file that the metrics beside it were computed with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.parquet import ParquetReader, read_footer

NOTED = (
    "predictions_sha256"  # in metrics.json: of the file's footer, which has checksums of all else
)


def noted_of(predictions: Path) -> dict[str, str]:
    """What metrics.json says of the file."""
    return {NOTED: read_footer(predictions).sha256}


def open_predictions(predictions: Path, metrics: Mapping[str, Any]) -> ParquetReader:
    """
    Raises:
        DamagedParquetError: it is damaged, or of another evaluation.
        OSError: it cannot be read.
    """
    return ParquetReader(predictions, read_footer(predictions, metrics.get(NOTED, "")))
