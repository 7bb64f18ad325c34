"""Columns of the generated tables."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

NAMES = pa.dictionary(pa.int32(), pa.string())


def named(codes: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    """Returns the names of codes, as a column of the type NAMES.

    Args:
        codes: Indices into `names`.
        names: The names.
    """
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(names, pa.string())
    )
