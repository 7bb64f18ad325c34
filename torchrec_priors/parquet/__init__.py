"""Reads and writes Parquet files with checksums. All other code uses this package for Parquet.

Parquet itself can store checksums of the values of each page, and other programs can check these.
The format has no checksums for the headers of pages and for the footer, which holds the names and
positions of the columns. Our files therefore store additional checksums in the footer, under the
key CHECKSUMS (see `checksums.py`). In files from other programs and earlier versions, only the
checksums that exist are compared.
"""

from torchrec_priors.parquet.checksums import DamagedParquetError, Footer, read_footer
from torchrec_priors.parquet.reading import ParquetReader, read_schema, read_table, readable
from torchrec_priors.parquet.writing import ParquetWriter, write_table

__all__ = [
    "DamagedParquetError",
    "Footer",
    "ParquetReader",
    "ParquetWriter",
    "read_footer",
    "read_schema",
    "read_table",
    "readable",
    "write_table",
]
