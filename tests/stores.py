"""Stores to test against: one in memory whose calls are counted and may fail, and one that is served by HTTP."""

import functools
import http.server
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from torchrec_priors.remote import store as stores


class Pretended(MemoryFileSystem):
    """pretended://bucket/...: counts calls by (name, last part of the path), and lets `trouble` change what comes."""

    protocol = "pretended"
    store, pseudo_dirs, calls = {}, [""], Counter()
    trouble = None  # called as trouble(call, path, content), returns the content or raises

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("pretended://").strip("/")

    def cat_file(self, path, **options):
        return self._came("cat", path, super().cat_file(path, **options))

    def get_file(self, rpath, lpath, **options):
        content = self._came("get", rpath, super().cat_file(rpath))
        Path(lpath).write_bytes(content)

    def put_file(self, lpath, rpath, **options):
        content = self._came("put", rpath, Path(lpath).read_bytes())
        self.pipe_file(rpath, content)

    def rm_file(self, path):
        self._came("rm", path, b"")
        super().rm_file(path)

    def _came(self, call, path, content):
        self.calls[call, path.rpartition("/")[2]] += 1
        return content if self.trouble is None else type(self).trouble(call, path, content)


fsspec.register_implementation("pretended", Pretended)


def fresh(monkeypatch, cache):
    """An empty store, a cache of its own, no waiting between tries."""
    from torchrec_priors.remote.cache import default_cache

    for name, value in (
        ("store", {}),
        ("pseudo_dirs", [""]),
        ("calls", Counter()),
        ("trouble", None),
    ):
        monkeypatch.setattr(Pretended, name, value)
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(cache))
    monkeypatch.delenv("TORCHREC_PRIORS_CACHE_SIZE", raising=False)
    default_cache.cache_clear()
    return Pretended()


def fill(folder, uri):
    """Copies a local folder into the store."""
    files = Pretended()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            files.pipe_file(f"{uri}/{file.relative_to(folder)}", file.read_bytes())


@contextmanager
def served(folder):
    """The address of a folder on this machine's HTTP, and the paths asked for."""
    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *values):
            asked.append(str(values[0]))

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
