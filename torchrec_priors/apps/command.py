"""Runs an app: its function becomes a command, a user's mistake one line on standard error."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from torchrec_priors.apps.arguments import check_renamed, check_texts, check_values
from torchrec_priors.apps.streams import one_line, open_streams
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.common.limits import whole_number
from torchrec_priors.common.out_of_memory import out_of_memory
from torchrec_priors.common.system_errors import naming
from torchrec_priors.common.system_errors import one_line as explain
from torchrec_priors.errors import (
    DivergedError,
    LostRanksError,
    OutsideError,
    StoppedError,
    UserError,
)
from torchrec_priors.ranks.variables import Launch, for_one_process, read_launch

TRUST = (
    "Run the files of custom code that the run was trained with, even if you have not trained "
    "with them here."
)

_RANK_0_SPEAKS_WITHIN = 20.0  # seconds
# Seconds between ranks of a machine that report the same error; the first to exit ends the others.
_APART = 0.5
# Exit code when the reader of our output has closed it, as `head` does.
_READER_HAS_GONE = 128 + signal.SIGPIPE


def run(
    function: Callable[..., Any],
    arguments: list[str] | None = None,
    *,
    single_process: bool = False,
) -> None:
    """Runs an app on command-line arguments and exits.

    The exit code is 0 if it is done, 2 if the user's input is wrong, 128 plus the number of the
    signal that ended it, and 1 for anything else. Under torchrun, what would fail again in the
    same way is not tried again.

    Args:
        function: the app.
        arguments: its command line; None for that of this process.
        single_process: whether the app is a single process, which several of a launcher would
            disturb.
    """
    open_streams()
    if arguments is None:
        arguments = sys.argv[1:]
    # The `--` keeps torchrun from reading our options (launch/builtins/dist.py).
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]

    launch = _read_launch(function.__name__, single_process=single_process)
    leads = not isinstance(launch, Launch) or launch.rank == 0
    _set_up_logging(leads)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(_with_checks(function, launch))
    try:
        check_texts(arguments)
        check_renamed(function.__name__, arguments)
        # Standalone, Typer would print errors, over several lines, and exit by itself.
        code = app(arguments, standalone_mode=False)
        _flush()
    except StoppedError as error:
        if leads:
            _write(str(error))
        code = 128 + error.by
    except LostRanksError as error:
        if error.speaks:
            _write(f"error: {error}")
        sys.stdout.flush()
        # Threads may wait for the lost ranks, and a normal exit would wait for the threads.
        os._exit(1)
    except (UserError, DivergedError) as error:
        _report(launch, str(error))
        _end_restarts()
        code = 1
        if isinstance(error, UserError):
            code = 2
    except OutsideError as error:
        _report(launch, str(error))
        code = 1
    except BrokenPipeError:
        code = _READER_HAS_GONE
    except Exception as error:
        code = _explain(launch, error)

    _discard_unwritten_output()
    if code == 1 and isinstance(launch, Launch) and launch.rank == 0 and launch.world > 1:
        # At once, so that the launcher ends the others before they report a lost rank.
        os._exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def _set_up_logging(leads: bool) -> None:
    """Logs bare messages; ranks other than the first log errors only."""
    logging.basicConfig(level=logging.WARNING)
    # A library may have installed its handler first; then basicConfig did nothing.
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(message)s"))

    level = logging.INFO if leads else logging.ERROR
    logging.getLogger("torchrec_priors").setLevel(level)
    silence_library_warnings()


def _explain(launch: Launch | UserError | None, error: Exception) -> int:
    """Reports what the system refused, or what is wrong with the command line.

    Returns:
        The exit code.

    Raises:
        Exception: the error itself, if it is neither.
    """
    explained = explain(error) or out_of_memory(error)
    if explained is not None:
        message = str(explained)
    elif hasattr(error, "format_message"):  # typer's own errors about the command line have it
        message = f"{error.format_message()} (--help explains every option)"
    else:
        raise error

    _report(launch, message)
    _end_restarts()
    return 1 if isinstance(explained, OutsideError) else 2


def _flush() -> None:
    """Writes out what was printed, while an error can still be reported."""
    with naming(Path("standard output")):
        if sys.stdout is not None:
            sys.stdout.flush()


def _discard_unwritten_output() -> None:
    """Keeps the interpreter from writing again, at its end, what could not be written.

    It would complain about it in its own words.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # From here on the stream writes to nothing, without an error.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _read_launch(app: str, *, single_process: bool) -> Launch | UserError | None:
    """Returns the launcher's variables, or the error that makes them invalid.

    The error is returned, since it can be raised only where it becomes one line.
    """
    try:
        launch = read_launch()
        if single_process and launch is not None and launch.world > 1:
            return UserError(
                f"{app} is one process, and a launcher started {launch.world}: start one "
                f"(torchrun --nproc-per-node 1, TorchX -j 1x1), or for one process without a "
                f"launcher, {for_one_process()}"
            )
    except UserError as error:
        return error
    return launch


def _with_checks(
    function: Callable[..., Any], launch: Launch | UserError | None
) -> Callable[..., Any]:
    """Wraps an app so that invalid variables of a launcher and invalid options are rejected.

    A closed output is handled here, too, as Typer would turn it into a plain failure.
    """

    @wraps(function)
    def checked(**options: Any) -> Any:
        if isinstance(launch, UserError):
            raise launch
        check_values(options)
        try:
            return function(**options)
        except BrokenPipeError:
            return _READER_HAS_GONE

    return checked


def _report(launch: Launch | UserError | None, message: str) -> None:
    """Writes the error's line, from rank 0 if it has the same error.

    A launcher ends all ranks as soon as one exits. So the others give rank 0 the time to write,
    which ends them. One that is still alive then has an error that rank 0 has not (e.g. in a file
    that only it reads) and writes its own line.
    """
    if isinstance(launch, Launch) and launch.rank:
        time.sleep(_RANK_0_SPEAKS_WITHIN + _APART * (launch.local_rank or 0))
        message = f"{message} (rank {launch.rank})"
    _write(f"error: {message}")


def _write(message: str) -> None:
    # Nobody may read it, or the disk may be full: then the exit code has to do.
    with suppress(OSError):
        sys.stderr.write(one_line(message) + "\n")
        sys.stderr.flush()


def _end_restarts() -> None:
    """Ends torchrun if it would start the ranks again: no exit code tells it not to."""
    restarts = _number_in_environment("TORCHELASTIC_RESTART_COUNT")
    if restarts >= _number_in_environment("TORCHELASTIC_MAX_RESTARTS"):
        return

    # Without /proc the parent is unknown, and is not ended.
    with suppress(OSError):
        parent = os.getppid()
        command = Path(f"/proc/{parent}/cmdline").read_bytes()
        # The parent may also be a shell in which the variables are left over.
        if b"torchrun" in command or b"torch.distributed" in command:
            os.kill(parent, signal.SIGTERM)


def _number_in_environment(name: str) -> int:
    """Returns a launcher's number; 0 if it is not set."""
    return whole_number(os.environ.get(name, "")) or 0
