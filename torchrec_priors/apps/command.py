"""Runs the function of an app as a command, and prints users' errors as one line each."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from torchrec_priors.apps.arguments import check_places, check_renamed, check_texts, check_values
from torchrec_priors.apps.streams import one_line, open_streams
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.common.limits import whole_number
from torchrec_priors.common.out_of_memory import out_of_memory
from torchrec_priors.common.progress import print_line, stages
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

RUN = "Folder of a trained run, or its URI: hf://ORG/NAME[@REVISION] on the Hugging Face hub."

# Seconds that rank 0 has to report an error before other ranks report it.
_RANK_0_REPORTS_WITHIN = 20.0
# Seconds between the reports of ranks on the same machine. When the first rank exits, the launcher
# ends the others, so that only one rank reports.
_BETWEEN_REPORTS = 0.5
# Seconds between two lines while libraries are imported.
_STARTING_EVERY = 3.0
# What the library that reads options says, and what users are told instead.
_PLAINER = (
    ("Value error, ", ""),
    (
        "Input should be a valid integer, unable to parse string as an integer",
        "give a whole number",
    ),
    ("Input should be a valid number, unable to parse string as a number", "give a number"),
    ("Input should be ", "it must be "),
)
# The exit code if the reader of the output has closed it, as `head` does.
_READER_HAS_CLOSED = 128 + signal.SIGPIPE


def run(
    function: Callable[..., Any],
    arguments: list[str] | None = None,
    *,
    single_process: bool = False,
) -> None:
    """Runs an app with command-line arguments and exits.

    The exit code is 0 after success, 2 if the user's input is wrong, 128 plus the number of the
    signal if a signal ended the app, and 1 after other errors. If the same error would occur after
    a restart, torchrun is kept from starting the ranks again.

    Args:
        function: the app.
        arguments: the arguments; None for those of this process.
        single_process: whether the app must run in a single process. An error is then raised if a
            launcher has started several.
    """
    open_streams()
    if arguments is None:
        arguments = sys.argv[1:]
    # The `--` keeps torchrun from reading the app's options (launch/builtins/dist.py).
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]

    launch = _read_launch(function.__name__, single_process=single_process)
    leads = not isinstance(launch, Launch) or launch.rank == 0
    _set_up_logging(leads)

    app = as_typer(_with_checks(function, launch))
    try:
        check_texts(arguments)
        check_renamed(function.__name__, arguments)
        # In standalone mode, Typer would print errors on several lines and exit itself.
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
        code = _READER_HAS_CLOSED
    except Exception as error:
        code = _explain(launch, error)

    _discard_unwritten_output()
    if code == 1 and isinstance(launch, Launch) and launch.rank == 0 and launch.world > 1:
        # This exits immediately, so that the launcher ends the other ranks before they report that
        # rank 0 is lost.
        os._exit(code)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def starting() -> Iterator[None]:
    """Imports of PyTorch and TorchRec are in this block, which says so.

    An app imports them when it runs, so that its help and completion are fast. All ranks import
    them, and rank 0 prints: under a launcher at once, because it has taken seconds to start, and
    otherwise only if the imports take long.
    """
    doing = "starting PyTorch and TorchRec"
    if os.environ.get("RANK") == "0":
        print_line(doing)
    with stages(_STARTING_EVERY, shown=_leads()) as report:
        report(doing)
        yield


def _leads() -> bool:
    """Returns whether no launcher has started this process, or as its rank 0."""
    return os.environ.get("RANK", "0") == "0"


def as_typer(function: Callable[..., Any]) -> typer.Typer:
    """Returns the command of an app, which Typer makes from the options that the app declares."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(function)
    return app


def _set_up_logging(leads: bool) -> None:
    """Sets up logging to print bare messages; ranks other than 0 print only errors."""
    logging.basicConfig(level=logging.WARNING)
    # If a library has already installed a handler, `basicConfig` does nothing.
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(message)s"))

    level = logging.INFO if leads else logging.ERROR
    logging.getLogger("torchrec_priors").setLevel(level)
    silence_library_warnings()


def _explain(launch: Launch | UserError | None, error: Exception) -> int:
    """Reports an error of the operating system or of the command line.

    Returns:
        The exit code.

    Raises:
        Exception: the error itself, if it has another cause.
    """
    explained = explain(error) or out_of_memory(error)
    if explained is not None:
        message = str(explained)
    elif hasattr(error, "format_message"):  # Typer's errors about the command line have this
        said = error.format_message()
        for words, plainer in _PLAINER:
            said = said.replace(words, plainer)
        message = f"{said} (--help explains every option)"
    else:
        raise error

    _report(launch, message)
    _end_restarts()
    return 1 if isinstance(explained, OutsideError) else 2


def _flush() -> None:
    """Writes the buffered output now, while a write error can still be reported."""
    with naming(Path("standard output")):
        if sys.stdout is not None:
            sys.stdout.flush()


def _discard_unwritten_output() -> None:
    """Discards output that could not be written.

    Otherwise the interpreter would try again when it ends, and print an error message of its own.
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
    """Returns the launcher's variables, or an error if they are invalid.

    The error is returned and not raised, because `run` can print it only after logging is set up.
    """
    try:
        launch = read_launch()
        if single_process and launch is not None and launch.world > 1:
            return UserError(
                f"{app} is a single process, but a launcher started {launch.world}: start one "
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

    This happens before the app imports libraries that take seconds.

    The wrapper also handles a closed output, because otherwise Typer would exit with code 1.
    """

    @wraps(function)
    def checked(**options: Any) -> Any:
        if isinstance(launch, UserError):
            raise launch
        check_values(options)
        check_places(options)
        try:
            return function(**options)
        except BrokenPipeError:
            return _READER_HAS_CLOSED

    return checked


def _report(launch: Launch | UserError | None, message: str) -> None:
    """Prints the message of an error, on only one rank if several have the same error.

    A launcher ends all ranks as soon as one of them exits. So the other ranks wait until rank 0 has
    printed its message and has exited, which ends them. If a rank is still running after that, rank
    0 does not have the error: for example, only this rank reads the damaged file. Then this rank
    prints its own message.
    """
    if isinstance(launch, Launch) and launch.rank:
        time.sleep(_RANK_0_REPORTS_WITHIN + _BETWEEN_REPORTS * (launch.local_rank or 0))
        message = f"{message} (rank {launch.rank})"
    _write(f"error: {message}")


def _write(message: str) -> None:
    # If standard error cannot be written, for example because the disk is full, only the exit code
    # shows the error.
    with suppress(OSError):
        sys.stderr.write(one_line(message) + "\n")
        sys.stderr.flush()


def _end_restarts() -> None:
    """Ends torchrun if it would start the ranks again. No exit code could prevent that."""
    restarts = _number_in_environment("TORCHELASTIC_RESTART_COUNT")
    if restarts >= _number_in_environment("TORCHELASTIC_MAX_RESTARTS"):
        return

    # Without /proc it is unknown whether the parent is torchrun, so it is not ended.
    with suppress(OSError):
        parent = os.getppid()
        command = Path(f"/proc/{parent}/cmdline").read_bytes()
        # The parent may also be a shell with variables that are left from an earlier launcher.
        if b"torchrun" in command or b"torch.distributed" in command:
            os.kill(parent, signal.SIGTERM)


def _number_in_environment(name: str) -> int:
    """Returns the number in an environment variable of the launcher; 0 if it is not set."""
    return whole_number(os.environ.get(name, "")) or 0
