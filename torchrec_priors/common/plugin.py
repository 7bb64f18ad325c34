"""Loads Python files that add a corpus, a prior, a backbone or a baseline.

Files of this project are found by their names, files of users by their paths.
"""

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
    """Loads a Python file, which must define `function`; returns the module.

    Args:
        file: the path of the file.
        option: the option or key with which the user named the file, for messages.
        function: the name of the function that the file must define.
        arguments: the names of the positional arguments with which the function will be called. If
            none are given, the arguments of the function are not checked.

    Raises:
        UserError: the file does not exist, cannot be imported, or does not define the function with
            these arguments.
    """
    if not file.is_file():
        raise UserError(f"{option}: there is no file '{file}'")

    name = f"_torchrec_priors_{function}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The module is registered before it is executed, because dataclasses look up their module.
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
    """Returns the names of those Python files in a folder that define `load`."""
    # The files are read as text, because importing them may import torch, which takes seconds.
    return sorted(
        file.stem
        for file in folder.glob("*.py")
        if "\ndef load(" in file.read_text(encoding="utf8")
    )


def own_file(specification: str) -> Path | None:
    """Returns the file of a specification such as "mine.py" or "mine.py:argument".

    It returns None if the specification is a name, such as "genre".

    >>> own_file("mine.py:3").name, own_file("genre")
    ('mine.py', None)
    """
    match = re.fullmatch(r"(.+\.py)(?::.*)?", specification)
    if match is None:
        return None
    return Path(match[1])


def absolute(specification: str) -> str:
    """Makes the path in a specification absolute, so that the result is valid in any folder."""
    file = own_file(specification)
    if file is None:
        return specification
    return f"{file.absolute()}{specification[len(str(file)) :]}"


def where_it_failed(error: Exception, file: Path) -> str:
    """Returns the name of a custom file, the line that raised an exception, and its message."""
    return f"'{file}'{_line(error, file)}: {_message(error)}"


class _SourceLoader(SourceFileLoader):
    """Compiles the file itself and ignores compiled code in `__pycache__`.

    The compiled code may come from another version of the file than the one that was checked.
    """

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        require_expected(Path(self.path), content)
        code: CodeType = self.source_to_code(content, self.path)
        return code


def _line(error: Exception, file: Path) -> str:
    """Returns the line of the file that raised an exception, as ", line 7"; "" if there is none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    # The traceback of a syntax error has no frame in the file, because the file was not executed.
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))

    # The last frame in the file is the nearest to the error.
    lines = [line for name, line in frames if line and Path(name).absolute() == file.absolute()]
    if not lines:
        return ""
    return f", line {lines[-1]}"


def _message(error: Exception) -> str:
    """Returns the type and message of an exception, on one line."""
    if isinstance(error, UserError):
        return str(error)
    # `str` of a syntax error would repeat the file and the line.
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
