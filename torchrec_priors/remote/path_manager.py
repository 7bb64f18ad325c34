"""A file system of fsspec over a PathManager of iopath, whose handlers users write and register."""

import io
import shutil
import tempfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeVar

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractFileSystem

if TYPE_CHECKING:
    from iopath.common.file_io import PathManager

T = TypeVar("T")


class PathManagerFiles(AbstractFileSystem):
    """The files that a PathManager opens. A path is a whole URI, as the PathManager takes it.

    To read files by name, a handler needs nothing but `_open`. Listing a folder also needs `_ls`,
    `_isfile` and `_isdir`, and writing needs `_exists`, `_mkdirs` and `_rm`. Handlers know neither
    sizes nor versions of files: a size is measured by opening the file, and there are no versions.
    """

    protocol = "iopath"
    cachable = False

    def __init__(self, manager: "PathManager") -> None:
        super().__init__()
        self._manager = manager

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rstrip("/")

    def info(self, path: str, **options: object) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if _called(self._manager.isfile, path):
            return {"name": path, "size": self._size(path), "type": "file"}
        if _called(self._manager.isdir, path):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: object) -> list[Any]:
        path = self._strip_protocol(path)
        # Some handlers list whole URIs, some end the names of folders with a slash.
        entries = [name.rstrip("/").rpartition("/")[2] for name in _called(self._manager.ls, path)]
        names = sorted(f"{path}/{entry}" for entry in entries if entry)
        return [self.info(name) for name in names] if detail else names

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: object,
    ) -> Any:
        # fsspec's own `find` leaves out folders whose listing fails.
        found: dict[str, dict[str, Any]] = {}
        waiting = [(self.info(path), 0)] if self.exists(path) else []
        while waiting:
            entry, depth = waiting.pop()
            is_folder = entry["type"] == "directory"
            if withdirs or not is_folder:
                found[entry["name"]] = entry
            if is_folder and (maxdepth is None or depth < maxdepth):
                waiting += [(inside, depth + 1) for inside in self.ls(entry["name"])]
        return found if detail else sorted(found)

    def exists(self, path: str, **options: object) -> bool:
        return bool(_called(self._manager.exists, self._strip_protocol(path)))

    def isfile(self, path: str) -> bool:
        return bool(_called(self._manager.isfile, self._strip_protocol(path)))

    def isdir(self, path: str) -> bool:
        return bool(_called(self._manager.isdir, self._strip_protocol(path)))

    def get_file(
        self,
        rpath: str,
        lpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: object = None,
        **options: object,
    ) -> None:
        assert outfile is None
        with self._stream(rpath, "rb") as source, open(lpath, "wb") as target:
            while block := source.read(self.blocksize):
                callback.relative_update(target.write(block))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        if not (exist_ok and self.exists(path)):
            _called(self._manager.mkdirs, self._strip_protocol(path))

    def rm_file(self, path: str) -> None:
        _called(self._manager.rm, self._strip_protocol(path))

    def _open(self, path: str, mode: str = "rb", **options: object) -> IO[bytes]:
        stream = self._stream(path, mode)
        if mode != "rb" or stream.seekable():
            return stream

        # Readers of Parquet need random access.
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with stream:
            shutil.copyfileobj(stream, copy)
        copy.seek(0)
        return copy

    def _stream(self, path: str, mode: str) -> IO[bytes]:
        """Opens a file as the handler does, perhaps without random access."""
        path = self._strip_protocol(path)
        try:
            stream: IO[bytes] = _called(self._manager.open, path, mode)
        except FileNotFoundError:
            raise
        except OSError as error:
            # Handlers raise errors of any type for a file that does not exist.
            if "r" in mode and not self.exists(path):
                raise FileNotFoundError(path) from error
            raise
        return stream

    def _size(self, path: str) -> int:
        with self._stream(path, "rb") as stream:
            if stream.seekable():
                return stream.seek(0, io.SEEK_END)
            return sum(iter(lambda: len(stream.read(self.blocksize)), 0))


def _called(method: Callable[..., T], *arguments: object) -> T:
    """Calls a method of a PathManager, and turns errors of its handlers into those of fsspec.

    Raises:
        NotImplementedError: the handler does not have the method.
        OSError: the handler failed with an error of any type. A handler is not a part of this
            project, so another try may help.
    """
    try:
        return method(*arguments)
    except NotImplementedError as error:
        name = method.__name__
        raise NotImplementedError(f"the handler of this URI has no method _{name}") from error
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
