"""Reads raw files as Arrow tables in which every row has its line number.

Corpus files import their readers from this package.
"""

from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import read_csv
from torchrec_priors.preparation.raw.delimited import (
    encoding_of,
    folder_with,
    found_in,
    keep_valid,
    read_lists,
    read_table,
    require_files,
)
from torchrec_priors.preparation.raw.typed import LINE

__all__ = [
    "LINE",
    "BadRows",
    "encoding_of",
    "folder_with",
    "found_in",
    "keep_valid",
    "read_csv",
    "read_lists",
    "read_table",
    "require_files",
]
