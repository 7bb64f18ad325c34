"""Records which items occur often enough in training (`seen.parquet`).

Items with fewer training interactions than `embedding.min_frequency` are called unseen. With some
values of `embedding.unseen` they have no row of their own in the item table. A run counts
interactions when it starts (`training/frequency.py`), and keeps the result in its folder.

Shapes: I items.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_table, write_table


def write_seen(file: Path, seen_I: np.ndarray | None) -> None:
    """Writes the row ids of the seen items. The file is written completely or not at all.

    Args:
        seen_I: bool, whether each item was seen often enough; None to write no file.
    """
    if seen_I is None:
        return
    items = np.flatnonzero(seen_I).astype(np.int32)
    with new_file(file) as partial:
        write_table(pa.table({"item": pa.array(items)}), partial)


def read_seen(file: Path, items: int) -> np.ndarray:
    """Reads which items were seen often enough, bool [I].

    Args:
        items: the number of items that the data set had when the run started.

    Raises:
        UserError: the file does not exist, cannot be read, or names an item beyond this number.
    """
    try:
        item = read_table(file, ["item"])["item"].to_numpy()
    except (pa.ArrowException, OSError) as error:
        blame_the_system(error, f"'{file}'")
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{file}, which says which items have rows, cannot be read ({reason}): train again"
        ) from error

    # NumPy would accept negative row ids as indices from the end.
    if len(item) and not 0 <= item.min() <= item.max() < items:
        raise UserError(
            f"{file} names an item outside the catalogue of {items:,} that it was written for: "
            "train again"
        )
    seen_I = np.zeros(items, bool)
    seen_I[item] = True
    return seen_I
