"""How an app runs: its function becomes a command, a person's mistake one line on standard error and exit code 2."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from torchrec_priors.errors import DivergedError, LostRanksError, OutsideError, StoppedError, UserError
from torchrec_priors.noise import hush
from torchrec_priors.remote.uri import refuse_uri
from torchrec_priors.system_errors import one_line

_RANK = "RANK"  # set by launchers; rank 0 alone speaks
_RANK_0_SPEAKS_WITHIN = 20.0  # seconds
_APART = 0.5  # seconds between ranks of a machine that say the same, of which the first ends the others


def run(function: Callable[..., Any], arguments: list[str] | None = None) -> None:
    """Runs an app on command-line arguments and exits: 0 done, 2 the user's input is wrong, 128 + a signal's number
    where one ended it, 1 anything else.

    Under torchrun, what would fail again in the same way is not tried again.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--"]:  # what keeps torchrun from reading our options (launch/builtins/dist.py)
        arguments = arguments[1:]
    leads = os.environ.get(_RANK, "0") == "0"
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:  # a library's, where one came first
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("torchrec_priors").setLevel(logging.INFO if leads else logging.ERROR)
    hush()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(_with_local_paths(function))
    try:
        code = app(arguments, standalone_mode=False)
    except StoppedError as error:
        if leads:
            _write(str(error))
        code = 128 + error.by
    except LostRanksError as error:
        if error.speaks:
            _write(f"error: {error}")
        sys.stdout.flush()
        os._exit(1)  # threads may wait for the lost ranks
    except (UserError, DivergedError) as error:
        _say(leads, str(error))
        _end_restarts()
        code = 2 if isinstance(error, UserError) else 1
    except OutsideError as error:
        _say(leads, str(error))
        code = 1
    except OSError as error:
        explained = one_line(error)
        if explained is None:
            raise
        _say(leads, str(explained))
        _end_restarts()
        code = 2 if isinstance(explained, UserError) else 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own errors about the command line have it
            raise
        _say(leads, f"{error.format_message()} (--help explains every option)")
        _end_restarts()
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _with_local_paths(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but refusing URIs where it takes paths: options that take URIs, too, come as texts."""

    @wraps(function)
    def checked(**options: Any) -> Any:
        for name, value in options.items():
            if isinstance(value, Path):
                refuse_uri(value, f"--{name.replace('_', '-')}")
        return function(**options)

    return checked


def _say(leads: bool, message: str) -> None:
    """Writes the one line, from rank 0 where it meets the mistake, too.

    A launcher ends all ranks as soon as one exits. So the others give rank 0 the time to speak, which ends them; one
    that lives on has met what rank 0 has not (a file that it alone reads) and says it itself.
    """
    if not leads:
        time.sleep(_RANK_0_SPEAKS_WITHIN + _APART * int(os.environ.get("LOCAL_RANK", "0")))
        message = f"{message} (rank {os.environ[_RANK]})"
    _write(f"error: {message}")


def _write(message: str) -> None:
    sys.stderr.write(" ".join(message.split()) + "\n")
    sys.stderr.flush()


def _end_restarts() -> None:
    """Ends torchrun where it would start the ranks again: it knows no exit code that says not to."""
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        os.kill(os.getppid(), signal.SIGTERM)
