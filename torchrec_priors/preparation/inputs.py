"""What a data set is prepared from: the raw files of a corpus, or tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrec_priors.common.plugin import where_it_failed
from torchrec_priors.common.system_errors import cannot, number_of
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.preparation.build.check import check
from torchrec_priors.preparation.corpus import corpus_path, find_corpus, load_corpus
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.options import read_options, recorded_options
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.table.description import TABLE, Known, Table, local
from torchrec_priors.preparation.table.files import files_of
from torchrec_priors.preparation.table.load import Loaded, load
from torchrec_priors.prepared import manifest as manifests


@dataclass(frozen=True)
class CorpusInput:
    """Raw files that a corpus file reads.

    Attributes:
        dataset: the name of a corpus, or the path of a corpus file.
        folder: the folder of the raw files.
        options: the options of the corpus, each as `key=value`.
    """

    dataset: str
    folder: Path
    options: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError if there is no such corpus. No raw file is read."""
        find_corpus(self.dataset)

    def recorded(self) -> dict[str, Any]:
        """Returns what the manifest records, without the raw files."""
        # This comes first because it raises UserError if the corpus file does not exist.
        corpus_file = find_corpus(self.dataset)
        options = recorded_options(read_options(corpus_file, self.options))
        recorded: dict[str, Any] = {
            "dataset": Path(self.dataset).name,
            "corpus_sha256": manifests.sha256(corpus_path(self.dataset)),
        }
        if options:
            recorded["options"] = options
        return recorded

    def seen(self, ours: Iterable[Path]) -> raw_files.Seen:
        """Returns the raw files, by path in `folder`, except those in the folders `ours`."""
        return raw_files.seen(self.folder, ours)

    def load(self, bad_rows: BadRows, engine: Engine) -> Loaded:
        """Calls `load` of the corpus file, and turns its errors into one-line messages.

        Raises:
            UserError: raw files are missing or cannot be read, or the corpus file fails.
        """
        try:
            loaded = load_corpus(
                find_corpus(self.dataset), self.folder, bad_rows, engine, self.options
            )
        except OSError as error:
            raise _of_raw_files(error, self.folder, engine) from error

        # The messages of these errors already say what is wrong.
        except (UserError, OutsideError, MemoryError):
            raise
        # The corpus file may be written by the user, so any exception is possible.
        except Exception as error:
            # The error comes from the system (a full disk, for example), not from the corpus file.
            if number_of(error) is not None:
                raise
            raise UserError(
                f"--dataset: load of {where_it_failed(error, corpus_path(self.dataset))}"
            ) from error
        return Loaded(check(loaded, corpus_path(self.dataset)), [])


@dataclass(frozen=True)
class TableInput:
    """Tables whose columns are described.

    Attributes:
        table: the description, with local places.
        known: what the data set has decided to which the tables are appended.
    """

    table: Table
    known: Known | None = None

    @property
    def folder(self) -> Path:
        """The innermost folder that contains all files."""
        folder, *others = [file.parent for file in self._files()]
        for other in others:
            while not other.is_relative_to(folder):
                folder = folder.parent
        return folder

    def check(self) -> None:
        """Raises UserError if a file does not exist. No file is read."""
        self._files()

    def recorded(self) -> dict[str, Any]:
        """Returns what the manifest records, without the raw files."""
        return {"dataset": TABLE, "options": self.table.recorded()}

    def seen(self, ours: Iterable[Path]) -> raw_files.Seen:
        """Returns the files, by path in `folder`, except those in the folders `ours`."""
        folders = list(ours)
        folder = self.folder
        files_seen: raw_files.Seen = {}
        for file in self._files():
            if not any(file.is_relative_to(of_ours) for of_ours in folders):
                status = file.stat()
                files_seen[str(file.relative_to(folder))] = [status.st_size, status.st_mtime_ns]
        return dict(sorted(files_seen.items()))

    def load(self, bad_rows: BadRows, engine: Engine) -> Loaded:
        """Reads the tables.

        Raises:
            UserError: a file cannot be read, or a column or row is not as described.
        """
        try:
            loaded = load(self.table, self.known, bad_rows, engine)
        except OSError as error:
            raise _of_raw_files(error, self.folder, engine) from error
        return Loaded(check(loaded.corpus, Path(self.table.name)), loaded.understood)

    def _files(self) -> list[Path]:
        places = {"--table": self.table.log}
        if self.table.items is not None:
            places["--items"] = self.table.items
        files = []
        for option, place in places.items():
            files += files_of(local(place), option)
        for place in self.table.user_labels.values():
            files += files_of(local(place), "--user-label")
        return list(dict.fromkeys(files))


Input = CorpusInput | TableInput


def _of_raw_files(error: OSError, folder: Path, engine: Engine) -> Exception:
    """Returns the error to raise for an error of the operating system while raw files are read."""
    # An error in the work folder concerns the output, and the caller reports it.
    if Path(error.filename or folder).is_relative_to(engine.folder):
        return error
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return UserError(f"--raw: there is no file '{error.filename}': put it there")
    return cannot(f"--raw: cannot read '{error.filename or folder}'", error)
