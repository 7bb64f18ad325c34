"""How an app runs: its function becomes a command, a person's mistake one line on standard error and exit code 2."""

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

TRUST = "Run files of own code that the run was trained with, though you have not trained with them here."

_RANK_0_SPEAKS_WITHIN = 20.0  # seconds
_READER_HAS_GONE = (
    128 + signal.SIGPIPE
)  # exit code where who read our output has seen enough, as `head` has
_APART = (
    0.5  # seconds between ranks of a machine that say the same, of which the first ends the others
)


def run(
    function: Callable[..., Any], arguments: list[str] | None = None, *, alone: bool = False
) -> None:
    """Runs an app on command-line arguments and exits: 0 done, 2 the user's input is wrong, 128 + a signal's number
    where one ended it, 1 anything else.

    Under torchrun, what would fail again in the same way is not tried again.

    Args:
        alone: whether the app is one process, which several of a launcher's would disturb.
    """
    open_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [
        "--"
    ]:  # what keeps torchrun from reading our options (launch/builtins/dist.py)
        arguments = arguments[1:]

    launch = _launch(function.__name__, alone=alone)
    leads = not isinstance(launch, Launch) or launch.rank == 0
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:  # a library's, where one came first
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("torchrec_priors").setLevel(logging.INFO if leads else logging.ERROR)
    silence_library_warnings()

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(_ready(function, launch))
    try:
        check_texts(arguments)
        check_renamed(function.__name__, arguments)
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
        os._exit(1)  # threads may wait for the lost ranks
    except (UserError, DivergedError) as error:
        _say(launch, str(error))
        _end_restarts()
        code = 2 if isinstance(error, UserError) else 1
    except OutsideError as error:
        _say(launch, str(error))
        code = 1
    except BrokenPipeError:
        code = _READER_HAS_GONE
    except Exception as error:
        code = _explain(launch, error)

    _let_go_of_output()
    if code == 1 and isinstance(launch, Launch) and launch.rank == 0 and launch.world > 1:
        os._exit(
            code
        )  # at once, so that the launcher ends the others before they tell of a lost rank
    sys.exit(code if isinstance(code, int) else 0)


def _explain(launch: Launch | UserError | None, error: Exception) -> int:
    """Says what the system refused, or what is wrong with the command line; the exit code. Raises everything else."""
    explained = explain(error) or out_of_memory(error)
    if explained is not None:
        message = str(explained)
    elif hasattr(error, "format_message"):  # typer's own errors about the command line have it
        message = f"{error.format_message()} (--help explains every option)"
    else:
        raise error
    _say(launch, message)
    _end_restarts()
    return 1 if isinstance(explained, OutsideError) else 2


def _flush() -> None:
    """Writes out what was printed, while an error can still be told."""
    with naming(Path("standard output")):
        if sys.stdout is not None:
            sys.stdout.flush()


def _let_go_of_output() -> None:
    """What nobody takes is not tried again when the interpreter ends, which would complain in its own words."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _launch(app: str, *, alone: bool) -> Launch | UserError | None:
    """What a launcher says, or why it cannot be."""
    try:
        launch = read_launch()
        if alone and launch is not None and launch.world > 1:
            return UserError(
                f"{app} is one process, and a launcher started {launch.world}: start one (torchrun --nproc-per-node 1, "
                f"TorchX -j 1x1), or for one process without a launcher, {for_one_process()}"
            )
    except UserError as error:
        return error
    return launch


def _ready(function: Callable[..., Any], launch: Launch | UserError | None) -> Callable[..., Any]:
    """The same, but refusing what a launcher cannot have meant, and what no option takes.

    Output that nobody reads any more ends it here, as Typer would make a plain failure of it.
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


def _say(launch: Launch | UserError | None, message: str) -> None:
    """Writes the one line, from rank 0 where it meets the mistake, too.

    A launcher ends all ranks as soon as one exits. So the others give rank 0 the time to speak, which ends them; one
    that lives on has met what rank 0 has not (a file that it alone reads) and says it itself.
    """
    if isinstance(launch, Launch) and launch.rank:
        time.sleep(_RANK_0_SPEAKS_WITHIN + _APART * (launch.local_rank or 0))
        message = f"{message} (rank {launch.rank})"
    _write(f"error: {message}")


def _write(message: str) -> None:
    with suppress(OSError):  # nobody reads it, or there is no room for it: the exit code says it
        sys.stderr.write(one_line(message) + "\n")
        sys.stderr.flush()


def _end_restarts() -> None:
    """Ends torchrun where it would start the ranks again: it knows no exit code that says not to."""
    if _in_environment("TORCHELASTIC_RESTART_COUNT") >= _in_environment(
        "TORCHELASTIC_MAX_RESTARTS"
    ):
        return
    with suppress(OSError):
        parent = os.getppid()
        command = Path(f"/proc/{parent}/cmdline").read_bytes()
        if (
            b"torchrun" in command or b"torch.distributed" in command
        ):  # not a shell with variables that are left over
            os.kill(parent, signal.SIGTERM)


def _in_environment(name: str) -> int:
    """A launcher's number; 0 where there is none."""
    return whole_number(os.environ.get(name, "")) or 0
