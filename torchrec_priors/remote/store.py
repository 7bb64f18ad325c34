"""A folder in a store (S3, HDFS, Hugging Face, HTTP), by fsspec: steps that are tried again, errors of one line."""

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.remote.uri import Uri

log = logging.getLogger(__name__)

# seconds, doubled after each try
TRIES = 4
FIRST_WAIT = 1.0
READ_ONLY = ("http", "https")

_EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hf", "http": "http", "https": "http"}
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
_NO_ACCESS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "GatedRepoError",
    "RepositoryNotFoundError",
)
# What stores call that which changes with a file.
_VERSIONS = ("ETag", "etag", "blob_id", "checksum", "md5", "Content-MD5", "Digest", "mtime", "LastModified",
             "last_modified", "Last-Modified", "modified", "created")  # fmt: skip

# Errors of a connection have other numbers.
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
    """A copy is not what it must be."""


@dataclass(frozen=True)
class Listed:
    """A file of a store.

    Attributes:
        version: changes with its content; None where the store does not say.
    """

    bytes: int
    version: str | None


class Store:
    """The folder of a URI. Threads may use it at the same time.

    Every call tries again, a few times, where the connection is to blame.

    Args:
        option: where the user named the URI, for messages.

    Raises:
        UserError: a protocol that is not known or whose library is not installed; from every call, what is not there or
            not allowed.
        OutsideError: from every call, a store that does not answer.
    """

    def __init__(self, uri: Uri, option: str) -> None:
        self.uri = uri
        self.option = option
        self._files, self._root = self._tried(uri, lambda: fsspec.core.url_to_fs(uri.text))

    def read(self, path: str) -> bytes:
        """A small file."""
        content: bytes = self._tried(self.uri / path, lambda: self._files.cat_file(self._at(path)))
        return content

    def exists(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._tried(self.uri / path, lambda: self._files.exists(self._at(path))))

    def get(
        self,
        path: str,
        file: Path,
        check: Callable[[Path], None],
        moved: Callback = DEFAULT_CALLBACK,
    ) -> None:
        """Copies to `file`; `check` raises DamagedError for a copy that is to be made again, once."""

        def copy() -> None:
            self._files.get_file(self._at(path), str(file), callback=moved)
            check(file)

        self._tried(self.uri / path, copy)

    def put(self, file: Path, path: str) -> None:
        """Copies from `file`, and looks whether all of it arrived."""

        def copy() -> None:
            self._files.put_file(str(file), self._at(path))
            self._files.invalidate_cache()
            there = self._files.info(self._at(path))["size"]
            if there != file.stat().st_size:
                raise DamagedError(f"{there} bytes of {file.stat().st_size} arrived")

        self._tried(self.uri / path, copy)

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        if self.exists(path):
            self._tried(self.uri / path, lambda: self._files.rm_file(self._at(path)))
            self._files.invalidate_cache()

    def files(self) -> dict[str, Listed]:
        """All files of the folder, at any depth, by their paths in it.

        Raises:
            UserError: it is a file, or the store has no folders.
        """
        if self.uri.protocol in READ_ONLY:
            raise UserError(
                f"{self.option}: '{self.uri}': {self.uri.protocol} cannot list a folder: download its files into a"
                " local folder, or copy them to a bucket"
            )
        self._files.invalidate_cache()
        found: dict[str, dict[str, Any]] = self._tried(
            self.uri, lambda: self._files.find(self._root, detail=True)
        )
        whole = {
            str(self._files._strip_protocol(name)).strip("/"): info for name, info in found.items()
        }
        root = self._root.strip("/")
        if root in whole:
            raise UserError(f"{self.option}: '{self.uri}' is a file: name the folder that it is in")
        return {
            name.removeprefix(f"{root}/"): _listed(info) for name, info in sorted(whole.items())
        }

    def require_writable(self) -> None:
        if self.uri.protocol in READ_ONLY:
            raise UserError(
                f"{self.option}: '{self.uri}': {self.uri.protocol} can only be read: write to a bucket"
            )

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _tried(self, what: Uri, act: Callable[[], T]) -> T:
        for attempt in range(TRIES):
            try:
                return act()
            except (UserError, OutsideError):
                raise
            except Exception as error:
                mistake = self._mistake(what, error)
                if mistake is not None:
                    raise mistake from error
                if isinstance(error, DamagedError) and attempt:
                    raise UserError(f"{self.option}: '{what}': {error}") from error
                if (
                    not isinstance(error, OSError)
                    and type(error).__module__.partition(".")[0] not in _LIBRARIES
                ):
                    raise
                if attempt == TRIES - 1:
                    raise OutsideError(
                        f"{self.option}: '{what}' failed {TRIES} times ({_short(error)}): look at the connection and"
                        " run this again"
                    ) from error
                wait = FIRST_WAIT * 2**attempt
                log.info("'%s' failed (%s): trying again in %.0f s", what, _short(error), wait)
                time.sleep(wait)
        raise AssertionError("a try returns or raises")

    def _mistake(self, what: Uri, error: Exception) -> UserError | OutsideError | None:
        """What another try will not mend; None for what may pass by itself."""
        status = _status(error)
        where = f"{self.option}: '{what}'"
        if isinstance(error, ImportError):
            return UserError(f"{where}: {self._missing_library(error)}")
        if "libhdfs" in str(error) or "libjvm" in str(error):
            return UserError(
                f"{where}: hdfs:// needs Hadoop's client: set JAVA_HOME, HADOOP_HOME and CLASSPATH"
            )
        if isinstance(error, OSError) and error.errno in _OF_THE_CACHE:
            full = cannot(f"{where} cannot be kept in the cache", error)
            return type(full)(f"{full}, or give TORCHREC_PRIORS_CACHE another folder")
        if (
            isinstance(error, PermissionError)
            or status in (401, 403)
            or type(error).__name__ in _NO_ACCESS
        ):
            return UserError(
                f"{where}: no permission ({_short(error)}): look at the credentials in the environment"
            )
        if isinstance(error, FileNotFoundError):
            return UserError(f"{where} is not there: look at the name")
        refused = status is not None and 400 <= status < 500 and status not in (408, 429)
        if refused or isinstance(error, ValueError | NotImplementedError):
            return UserError(f"{where}: {_short(error)}")
        return None

    def _missing_library(self, error: ImportError) -> str:
        extra = _EXTRAS.get(self.uri.protocol)
        if extra is None:
            return f"{_short(error)}"
        return f"{self.uri.protocol}:// needs an extra: pip install 'torchrec-priors[{extra}]'"


def _listed(info: dict[str, Any]) -> Listed:
    known = [f"{name}={info[name]}" for name in _VERSIONS if info.get(name) is not None]
    return Listed(int(info["size"]), " ".join(known) or None)


def _status(error: Exception) -> int | None:
    """Of an HTTP answer."""
    answer = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(answer, "status_code", None)
    return status if isinstance(status, int) else None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
