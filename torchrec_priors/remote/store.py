"""Access to a folder in a store: S3, HDFS, Hugging Face, HTTP, or a handler of iopath.

If the connection fails, a call is tried again. Errors are reported in one line.
"""

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.remote.opening import open_uri
from torchrec_priors.remote.uri import Uri

log = logging.getLogger(__name__)

TRIES = 4
FIRST_WAIT = 1.0  # seconds before the second try; the time is doubled before each later try
READ_ONLY = ("http", "https")  # protocols that can neither write nor list a folder

# The extra of this package that installs the library of a protocol.
_EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hf", "http": "http", "https": "http"}
# Libraries that talk to stores. An error of one of them may be caused by the connection.
_LIBRARIES = (
    "aiobotocore",
    "aiohttp",
    "botocore",
    "fsspec",
    "httpx",
    "huggingface_hub",
    "requests",
    "urllib3",
)
# Errors of these libraries that mean that access is denied.
_NO_ACCESS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "GatedRepoError",
    "RepositoryNotFoundError",
)
# Names that stores give to a value that changes with the content of a file.
_VERSIONS = (
    "ETag",
    "etag",
    "blob_id",
    "checksum",
    "md5",
    "Content-MD5",
    "Digest",
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "modified",
    "created",
)

# Error numbers of the local disk; those of a connection are different.
_OF_THE_CACHE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENAMETOOLONG,
)

T = TypeVar("T")


class DamagedError(OSError):
    """An error for a copy that differs from its original."""


@dataclass(frozen=True)
class Listed:
    """What a store says about one of its files.

    Attributes:
        bytes: the size of the file.
        version: a text that changes with the content of the file; None if the store gives none.
    """

    bytes: int
    version: str | None


class Store:
    """A folder in a store. Threads may use it at the same time.

    If the connection fails, a call is tried again, up to `TRIES` times in all.

    Args:
        uri: the folder.
        option: the option with which the URI was given, for messages.

    Raises:
        UserError: the protocol is unknown, or its library is not installed. Every method may raise
            it if a path does not exist, or access is denied.
        OutsideError: the store does not answer. Every method may raise it.
    """

    def __init__(self, uri: Uri, option: str) -> None:
        self.uri = uri
        self.option = option
        self._files, self._root = self._tried(uri, lambda: open_uri(uri, option))

    def read(self, path: str) -> bytes:
        """Returns the content of a small file."""
        content: bytes = self._tried(self.uri / path, lambda: self._files.cat_file(self._at(path)))
        return content

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists at present."""
        # fsspec caches listings, but other processes may have changed the folder.
        self._files.invalidate_cache()
        return bool(self._tried(self.uri / path, lambda: self._files.exists(self._at(path))))

    def get(
        self,
        path: str,
        file: Path,
        check: Callable[[Path], None],
        moved: Callback = DEFAULT_CALLBACK,
    ) -> None:
        """Copies a file of the store to a local file.

        Args:
            path: the path of the file in the folder.
            file: the local file.
            check: raises DamagedError if the copy is damaged. The file is then copied once more.
            moved: counts the copied bytes.
        """

        def copy() -> None:
            self._files.get_file(self._at(path), str(file), callback=moved)
            check(file)

        # `copy` includes the check, so that a damaged copy is tried again.
        self._tried(self.uri / path, copy)

    def put(self, file: Path, path: str) -> None:
        """Copies a local file to the store, and compares the sizes."""

        def copy() -> None:
            self._files.put_file(str(file), self._at(path))
            self._files.invalidate_cache()
            arrived = self._files.info(self._at(path))["size"]
            if arrived != file.stat().st_size:
                raise DamagedError(f"{arrived} of {file.stat().st_size} bytes arrived")

        self._tried(self.uri / path, copy)

    def remove(self, path: str) -> None:
        """Removes a file, if it exists."""
        if self.exists(path):
            self._tried(self.uri / path, lambda: self._files.rm_file(self._at(path)))
            self._files.invalidate_cache()

    def files(self) -> dict[str, Listed]:
        """Lists all files in the folder and its subfolders, by path in the folder.

        Raises:
            UserError: the URI is a file, or the store cannot list folders.
        """
        if self.uri.protocol in READ_ONLY:
            raise UserError(
                f"{self.option}: '{self.uri}': {self.uri.protocol} cannot list a folder: "
                "download its files into a local folder, or copy them to a bucket"
            )

        self._files.invalidate_cache()
        details: dict[str, dict[str, Any]] = self._tried(
            self.uri, lambda: self._files.find(self._root, detail=True)
        )

        # Names may begin with the protocol, and may begin or end with slashes; stores differ here.
        by_name = {
            str(self._files._strip_protocol(name)).strip("/"): info
            for name, info in details.items()
        }
        root = self._root.strip("/")
        if root in by_name:
            raise UserError(f"{self.option}: '{self.uri}' is a file: name the folder that it is in")
        return {
            name.removeprefix(f"{root}/"): _listed(info) for name, info in sorted(by_name.items())
        }

    def is_file(self, path: str) -> bool:
        """Whether there is a file, and not a folder, at this path."""
        return bool(self._tried(self.uri / path, lambda: self._files.isfile(self._at(path))))

    def listed(self, path: str) -> Listed:
        """Returns what the store says about one file."""
        return _listed(self._tried(self.uri / path, lambda: self._files.info(self._at(path))))

    def require_writable(self) -> None:
        """Raises UserError if the store can only be read."""
        if self.uri.protocol in READ_ONLY:
            raise UserError(
                f"{self.option}: '{self.uri}': {self.uri.protocol} can only be read: "
                "write to a bucket"
            )

    def _at(self, path: str) -> str:
        """Returns the path in the store for a path in the folder."""
        return f"{self._root.rstrip('/')}/{path}"

    def _tried(self, uri: Uri, act: Callable[[], T]) -> T:
        """Calls a function, and calls it again if the connection fails.

        Args:
            uri: the file or folder, for messages.
            act: the function.
        """
        for attempt in range(TRIES):
            try:
                return act()
            except (UserError, OutsideError):
                raise
            except Exception as error:
                mistake = self._mistake(uri, error)
                if mistake is not None:
                    raise mistake from error
                # If the copy is damaged again, the original is damaged, or is being changed.
                if isinstance(error, DamagedError) and attempt:
                    raise UserError(f"{self.option}: '{uri}': {error}") from error
                # Any other kind of error is a bug, here or in a library.
                if not isinstance(error, OSError) and not _is_of_library(error):
                    raise
                if attempt == TRIES - 1:
                    raise OutsideError(
                        f"{self.option}: '{uri}' failed {TRIES} times ({_short(error)}): "
                        "check the connection and run this again"
                    ) from error

                wait = FIRST_WAIT * 2**attempt
                log.info("'%s' failed (%s): trying again in %.0f s", uri, _short(error), wait)
                time.sleep(wait)
        raise AssertionError("a try returns or raises")

    def _mistake(self, uri: Uri, error: Exception) -> UserError | OutsideError | None:
        """Returns the error in one line if another try cannot help; None if it may help."""
        where = f"{self.option}: '{uri}'"

        # Errors of the local machine: a library is missing, or the disk is full.
        if isinstance(error, ImportError):
            return UserError(f"{where}: {self._missing_library(error)}")
        if "libhdfs" in str(error) or "libjvm" in str(error):
            return UserError(
                f"{where}: hdfs:// needs Hadoop's client: set JAVA_HOME, HADOOP_HOME and CLASSPATH"
            )
        if isinstance(error, OSError) and error.errno in _OF_THE_CACHE:
            full = cannot(f"{where} cannot be kept in the cache", error)
            return type(full)(f"{full}, or give TORCHREC_PRIORS_CACHE another folder")

        # Errors of the store: it rejects the request. Status 408 and 429 mean that it is busy, so
        # another try may help.
        status = _status(error)
        no_access = status in (401, 403) or type(error).__name__ in _NO_ACCESS
        if isinstance(error, PermissionError) or no_access:
            return UserError(
                f"{where}: no permission ({_short(error)}): "
                "check the credentials in the environment"
            )
        if isinstance(error, FileNotFoundError):
            return UserError(f"{where} does not exist: check the name")
        is_rejected = status is not None and 400 <= status < 500 and status not in (408, 429)
        if is_rejected or isinstance(error, ValueError | NotImplementedError):
            return UserError(f"{where}: {_short(error)}")
        return None

    def _missing_library(self, error: ImportError) -> str:
        """Says how to install the library that the protocol needs."""
        extra = _EXTRAS.get(self.uri.protocol)
        if extra is None:
            return _short(error)
        return f"{self.uri.protocol}:// needs an extra: pip install 'torchrec-priors[{extra}]'"


def _listed(info: dict[str, Any]) -> Listed:
    """Makes the description of a file from the details that fsspec returns."""
    versions = [f"{name}={info[name]}" for name in _VERSIONS if info.get(name) is not None]
    return Listed(int(info["size"]), " ".join(versions) or None)


def _is_of_library(error: Exception) -> bool:
    """Whether an error is defined by a library that talks to stores."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _status(error: Exception) -> int | None:
    """Returns the HTTP status of an error; None if it has none."""
    # Libraries use different attributes for it.
    answer = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(answer, "status_code", None)
    if isinstance(status, int):
        return status
    return None


def _short(error: Exception) -> str:
    """Returns the type of an error and the beginning of its message, in one line."""
    text = " ".join(str(error).split())
    if not text:
        return type(error).__name__
    return f"{type(error).__name__}: {text[:200]}"
