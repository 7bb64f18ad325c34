"""Completes apps, options and names in shells, for `torchrec-priors --install-completion`.

Typer writes the shell's script, which calls `torchrec-priors` with the words that were typed. Only
the app that was typed is imported.
"""

import ast
import importlib
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from torchrec_priors.apps import command
from torchrec_priors.settings.shipped import config_names

# The variables in which the scripts for bash and for other shells pass the typed words.
_WORDS = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
# With this variable, Typer takes the shell that is named, and does not look for the one that runs.
_NAMED_SHELL = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"


def complete(names: list[str]) -> None:
    """Answers the shell's script, or writes the script, and exits.

    Args:
        names: the names of all apps.
    """
    _Apps.names = names
    if sys.argv[1:2] != sys.argv[1:]:  # the name of a shell follows the option
        os.environ[_NAMED_SHELL] = "1"
    app = typer.Typer(cls=_Apps, rich_markup_mode=None)
    app.callback()(lambda: None)
    app(prog_name="torchrec-priors")


def complete_config(incomplete: str) -> list[str]:
    """Returns the names of shipped configurations that begin with what was typed.

    If there are none, the shell completes names of files.
    """
    return [name for name in config_names() if name.startswith(incomplete)]


class _Apps(TyperGroup):
    """All apps as one command, of which only the typed app is imported."""

    names: ClassVar[list[str]] = []

    def list_commands(self, ctx: Any) -> list[str]:
        return self.names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.names:
            return None
        typed = " ".join(os.environ.get(variable, "") for variable in _WORDS).split()
        if cmd_name not in typed:
            return TyperCommand(cmd_name, help=_first_line(cmd_name))
        module = importlib.import_module(f"torchrec_priors.apps.{cmd_name}")
        return get_command(command.as_typer(getattr(module, cmd_name)))


def _first_line(name: str) -> str:
    """Returns what an app does: the first line of its file, without the name of the app."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf8")
    line = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return line.partition(": ")[2] or line
