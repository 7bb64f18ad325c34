"""What no option takes is one line; what is written can be written anywhere; memory that has run out is one line."""

import io
import sys
from pathlib import Path

import pytest
from typer import Option

from torchrec_priors.apps import __main__ as door
from torchrec_priors.apps import command
from torchrec_priors.apps.streams import one_line, open_streams


def _app(rows: int = 0, share: float = 0.0, place: Path = Path(), text: str = "") -> None:
    """Prints what it was given."""
    sys.stdout.write(f"{rows} {share} {text}\n")


def _run(arguments, function=_app):
    with pytest.raises(SystemExit) as ended:
        command.run(function, arguments)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rows", "9" * 30], "--rows"),
        (["--rows", str(2**63)], "beyond 64 bits"),
        (["--share", "nan"], "--share must be a finite number"),
        (["--share", "1e400"], "--share must be a finite number"),
        (["--text", "\udcff"], "is not valid UTF-8"),
        (["--place", "s3://bucket/x"], "--place"),
        (["--rows", "9" * 5000], "--rows"),
    ],
)
def test_what_no_option_takes(arguments, says, capsys):
    assert _run(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said
    assert len(said) < 1000


def test_help_has_a_line_for_each_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torchrec-priors", "--help"])
    with pytest.raises(SystemExit):
        door.main()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    does = {words[0]: words[1] for words in lines if len(words) == 2}
    assert does["train"] == "trains a run, or resumes it"
    assert set(door.apps()) <= set(does)


def test_what_options_take(capsys):
    assert _run(["--rows", str(2**63 - 1), "--share", "1e308", "--text", "ü🎬"]) == 0
    assert capsys.readouterr().out == f"{2**63 - 1} 1e+308 ü🎬\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.45 TiB for an array with shape (1, 1)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to"
        ),
    ],
)
def test_memory_that_has_run_out(error, capsys):
    def exhaust() -> None:
        raise error

    assert _run([], exhaust) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: memory has run out")
    assert said.count("\n") == 1


def test_an_error_of_our_own_stays_one():
    def fail() -> None:
        raise RuntimeError("an invariant is broken")

    with pytest.raises(RuntimeError, match="invariant"):
        command.run(fail, [])


def test_a_terminal_of_ascii_shows_titles(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    open_streams()
    sys.stdout.write("Café \udcff\n")
    sys.stdout.flush()
    assert written.getvalue() == b"Caf\\xe9 \\udcff\n"


def test_a_message_is_one_line_of_what_can_be_seen():
    assert one_line("a\n b\x1b[31m\t\u202ec") == "a b\\x1b[31m \\u202ec"
    assert len(one_line(f"no user '{'x' * 9000}'")) < 500


def test_options_are_still_declared_by_functions(capsys):
    def declared(k: int = Option(1, "-k", max=3)) -> None: ...

    assert _run(["-k", "4"], declared) == 2
    assert "-k" in capsys.readouterr().err
