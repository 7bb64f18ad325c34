"""Opens `predictions.parquet`, and checks that it belongs to the metrics in the same folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.parquet import ParquetReader, read_footer

# The key under which metrics.json keeps the checksum of the file's footer. The footer itself has
# the checksums of everything else in the file.
NOTED = "predictions_sha256"


def noted_of(predictions: Path) -> dict[str, str]:
    """Returns the entry that identifies the file in metrics.json."""
    return {NOTED: read_footer(predictions).sha256}


def open_predictions(predictions: Path, metrics: Mapping[str, Any]) -> ParquetReader:
    """Opens the predictions of an evaluation, after checking that its metrics belong to them.

    Args:
        predictions: the file.
        metrics: the content of metrics.json. Earlier versions wrote no checksum of the predictions
            into it; in that case nothing is checked.

    Raises:
        DamagedParquetError: the file is damaged, or belongs to another evaluation.
        OSError: the file cannot be read.
    """
    return ParquetReader(predictions, read_footer(predictions, metrics.get(NOTED, "")))
