"""Reads all releases of MovieLens as the same tables.

There is one module for each form of the files: `flags` (100K), `dat` (1M and 10M), `csv_files` (20M
and later, Kaggle's copy) and `sequences` (1M in the text form of published comparisons). `forms`
recognises a release by its files.
"""

from torchrec_priors.preparation.raw.movielens.forms import read_release
from torchrec_priors.preparation.raw.movielens.release import Release

__all__ = ["Release", "read_release"]
