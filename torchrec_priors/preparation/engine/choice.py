"""Defines the choice of the engine that prepares a data set."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from torchrec_priors.common.amounts import memory_of_process
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.on_duckdb import MEMORY, DuckDB


@dataclass(frozen=True)
class EngineChoice:
    """The engine that computes a data set. The content of the data set does not depend on it.

    Attributes:
        name: the name of the engine.
        memory: the amount of memory that the engine may use, such as "2GB".
        master: the URL of a Spark cluster. By default Spark uses all cores of this machine.
    """

    name: Literal["duckdb", "spark"] = "duckdb"
    memory: str = MEMORY
    master: str | None = None

    def __post_init__(self) -> None:
        """Raises UserError if the options are invalid, before any file is written."""
        memory_of_process(self.memory)
        if self.name == "spark" and find_spec("pyspark") is None:
            raise UserError("--engine spark needs pyspark: pip install 'torchrec-priors[spark]'")
        if self.master is not None and self.name != "spark":
            raise UserError(
                f"--spark-master needs --engine spark, not {self.name}: leave --spark-master out"
            )

    @contextmanager
    def start(self, folder: Path) -> Iterator[Engine]:
        """Starts the engine and closes it at the end.

        Args:
            folder: an existing folder for the engine's files.
        """
        engine = self._engine(folder)
        try:
            yield engine
        finally:
            engine.close()

    def _engine(self, folder: Path) -> Engine:
        if self.name == "duckdb":
            return DuckDB(folder, self.memory)

        # This is imported only if needed, because pyspark is an optional dependency.
        from torchrec_priors.preparation.engine.on_spark import LOCAL, Spark

        return Spark(folder, self.memory, self.master or LOCAL)
