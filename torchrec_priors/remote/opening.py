"""Decides what opens a URI: fsspec, or a handler that is registered with iopath.

The environment variable TORCHREC_PRIORS_IMPORT names Python modules that register handlers with
iopath, or file systems with fsspec. They are imported when a process opens its first URI.
"""

import importlib
import os
from functools import cache

from fsspec.core import url_to_fs
from fsspec.registry import known_implementations, registry
from fsspec.spec import AbstractFileSystem

from torchrec_priors.errors import UserError
from torchrec_priors.remote.path_manager import PathManagerFiles
from torchrec_priors.remote.uri import Uri

IMPORT = "TORCHREC_PRIORS_IMPORT"


def open_uri(uri: Uri, option: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system that a URI is in, and its path there.

    fsspec is asked first. Other URIs are opened by the handlers in iopath's `g_pathmgr`.

    Args:
        uri: the URI.
        option: the option with which it was given, for messages.

    Raises:
        UserError: nothing opens it, or a module that registers handlers cannot be imported.
        ImportError: the library that fsspec needs for the protocol is not installed.
    """
    _import_modules(os.environ.get(IMPORT, ""))
    if uri.protocol in registry or uri.protocol in known_implementations:
        files, path = url_to_fs(uri.text)
        return files, path

    remedy = f"name the module that registers its handler in {IMPORT}"
    try:
        from iopath.common.file_io import g_pathmgr  # an extra
    except ImportError as error:
        raise UserError(
            f"{option}: '{uri}': {uri.protocol}:// is unknown to fsspec, and iopath is not "
            f"installed: pip install 'torchrec-priors[iopath]' and {remedy}"
        ) from error
    # There is no public way to ask which prefixes are registered.
    if not any(f"{uri}/".startswith(prefix) for prefix in g_pathmgr._path_handlers):
        raise UserError(
            f"{option}: '{uri}': {uri.protocol}:// is unknown to fsspec, and no handler in "
            f"iopath's g_pathmgr opens it: {remedy}"
        )
    return PathManagerFiles(g_pathmgr), uri.text


@cache
def _import_modules(names: str) -> None:
    """Imports the modules that users have named, once in a process.

    Args:
        names: the names, separated by commas.
    """
    for name in filter(None, map(str.strip, names.split(","))):
        try:
            importlib.import_module(name)
        except Exception as error:
            message = " ".join(str(error).split())
            raise UserError(
                f"{IMPORT}: '{name}' cannot be imported ({type(error).__name__}: {message}): name "
                "modules that Python finds, for example by PYTHONPATH"
            ) from error
