"""Reads raw files as Arrow tables in which every row has its line number.

Corpus files import their readers from this package.
"""

from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.csv_file import read_csv
from torchrec_priors.preparation.raw.delimited import (
    encoding_of,
    folder_with,
    found_in,
    keep_first,
    keep_valid,
    read_table,
    require_files,
)
from torchrec_priors.preparation.raw.label_lists import read_label_lists, read_label_names
from torchrec_priors.preparation.raw.lists import read_histories, read_lists
from torchrec_priors.preparation.raw.typed import LINE

__all__ = [
    "LINE",
    "BadRows",
    "encoding_of",
    "folder_with",
    "found_in",
    "keep_first",
    "keep_valid",
    "read_csv",
    "read_histories",
    "read_label_lists",
    "read_label_names",
    "read_lists",
    "read_table",
    "require_files",
]
