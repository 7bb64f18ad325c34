"""Loads what one file adds: a corpus, a prior, a backbone; our own by name, users' by path."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from torchrec_priors.common.own_code import require_expected
from torchrec_priors.errors import UserError


def load_file(
    file: Path, *, option: str, function: str, arguments: Sequence[str] = ()
) -> ModuleType:
    """Loads the module of a Python file that defines `function`.

    Args:
        option: what the user set to the file's path, for messages.
        arguments: names of the arguments with which `function` will be called, by position; none to
            leave that unchecked.

    Raises:
        UserError: no such file, one that cannot be imported, or one without such a function of
            these arguments.
    """
    if not file.is_file():
        raise UserError(f"{option}: there is no file '{file}'")

    name = f"_torchrec_priors_{function}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Before it is executed, since dataclasses look up their module.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UserError(f"{option}: {where_it_failed(error, file)}") from error

    defined = getattr(module, function, None)
    if not callable(defined):
        raise UserError(f"{option}: '{file}' defines no function `{function}`")
    if arguments:
        try:
            inspect.signature(defined).bind(*arguments)
        except TypeError as error:
            takes = f"{function}{inspect.signature(defined)}"
            wanted = f"{function}({', '.join(arguments)})"
            raise UserError(
                f"{option}: '{file}' defines {takes} where {wanted} is called ({error})"
            ) from error
    return module


def known_files(folder: Path) -> list[str]:
    """The names of a folder's files that define `load`."""
    # Read as text, since importing them may import torch.
    return sorted(
        file.stem
        for file in folder.glob("*.py")
        if "\ndef load(" in file.read_text(encoding="utf8")
    )


def own_file(specification: str) -> Path | None:
    """The file of a specification such as "mine.py" or "mine.py:argument"; None for a name.

    >>> own_file("mine.py:3").name, own_file("genre")
    ('mine.py', None)
    """
    match = re.fullmatch(r"(.+\.py)(?::.*)?", specification)
    if match is None:
        return None
    return Path(match[1])


def absolute(specification: str) -> str:
    """The same specification with the absolute path of its file, so it is valid in any folder."""
    file = own_file(specification)
    if file is None:
        return specification
    return f"{file.absolute()}{specification[len(str(file)) :]}"


def where_it_failed(error: Exception, file: Path) -> str:
    """A custom file, its line that an exception came from, and the exception's message."""
    return f"'{file}'{_line(error, file)}: {_message(error)}"


class _SourceLoader(SourceFileLoader):
    """Runs the text of the file itself: compiled code next to it may be of another text."""

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        require_expected(Path(self.path), content)
        code: CodeType = self.source_to_code(content, self.path)
        return code


def _line(error: Exception, file: Path) -> str:
    """The line in the file that an exception came from, as ", line 7"; empty if it has none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    # A syntax error has no frame in the file itself.
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))

    # The last frame of the file is the nearest to the error.
    lines = [line for name, line in frames if line and Path(name).absolute() == file.absolute()]
    if not lines:
        return ""
    return f", line {lines[-1]}"


def _message(error: Exception) -> str:
    """What an exception says, on one line."""
    if isinstance(error, UserError):
        return str(error)
    # The text of a syntax error repeats file and line.
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
