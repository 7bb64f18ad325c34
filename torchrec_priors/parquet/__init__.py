"""The only way to Parquet files, which are written and read with checksums.

Pages of Parquet can have checksums of their values, which other programs know, too. The format has
none for the headers of pages and for the footer, which says what the columns are called and where
they are. So our files have more in their footer, under the key CHECKSUMS: see `checksums.py`. Files
of other programs and of earlier versions are read with the checksums that they have.
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
