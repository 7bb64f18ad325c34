"""The command `torchrec-priors <app> ...`, which does the same as
`python -m torchrec_priors.apps.<app> ...`.
"""

import importlib
import os
import sys
from pathlib import Path

from torchrec_priors.apps.streams import one_line, open_streams
from torchrec_priors.common.versions import in_words as versions_in_words
from torchrec_priors.errors import nearest

# The shell's completion starts the command with this variable.
COMPLETE_VARIABLE = "_TORCHREC_PRIORS_COMPLETE"
COMPLETION_OPTIONS = ("--install-completion", "--show-completion")


def main() -> None:
    """Runs the `torchrec-priors` command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if COMPLETE_VARIABLE in os.environ or name in COMPLETION_OPTIONS:
        from torchrec_priors.apps.completion import complete  # Typer takes a moment to import

        complete(apps())
    if name in ("-h", "--help"):
        sys.stdout.write(_help())
        sys.exit(0)
    if name == "--version":
        sys.stdout.write(versions_in_words() + "\n")
        sys.exit(0)

    if name not in apps():
        open_streams()
        message = f"error: there is no command '{name}': {nearest(name, apps())}"
        sys.stderr.write(one_line(message) + "\n")
        sys.exit(2)

    # With these arguments, the app behaves as if it had been started directly. Its messages use
    # the name "torchrec-priors <app>".
    sys.argv = [f"torchrec-priors {name}", *sys.argv[2:]]
    importlib.import_module(f"torchrec_priors.apps.{name}").main()


def apps() -> list[str]:
    """Returns the names of all apps: the files of this folder that define `main`."""
    return sorted(_texts())


def _help() -> str:
    """Returns a line for each app, and what else the command takes."""
    lines = ["usage: torchrec-priors COMMAND [options]", ""]
    for name, text in sorted(_texts().items()):
        # The first line of each file is `"""The app `name`: does something.`.
        does = text.partition(": ")[2].partition("\n")[0].rstrip('".')
        lines.append(f"  {name:<12}{does}")
    lines += [
        "",
        "COMMAND --help explains its options",
        "--version shows versions, --install-completion completes commands in your shell",
    ]
    return "\n".join(lines) + "\n"


def _texts() -> dict[str, str]:
    """Returns the text of each app's file, by the name of the app."""
    # The files are read as text, because importing all apps would take seconds.
    files = Path(__file__).parent.glob("[a-z]*.py")
    texts = {file.stem: file.read_text(encoding="utf8") for file in files}
    return {name: text for name, text in texts.items() if "\ndef main(" in text}


if __name__ == "__main__":
    main()
