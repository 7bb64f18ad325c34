"""What the operating system refuses is one line that names the file and the remedy."""

import errno
import subprocess
import sys

import pytest

from torchrec_priors.apps import command
from torchrec_priors.common.system_errors import naming, one_line
from torchrec_priors.errors import OutsideError, UserError


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOSPC, OutsideError, "make room"),
        (errno.EACCES, UserError, "name another place"),
        (errno.EROFS, UserError, "can be written"),
        (errno.ENAMETOOLONG, UserError, "shorter"),
        (errno.EISDIR, UserError, "name a file"),
        (errno.ENOTDIR, UserError, "name a folder"),
        (errno.EMFILE, OutsideError, "ulimit"),
    ],
)
def test_kinds(number, kind, remedy):
    explained = one_line(OSError(number, "said", "/x/y"))
    assert type(explained) is kind
    assert "'/x/y'" in str(explained)
    assert remedy in str(explained)


def test_what_nobody_can_mend_keeps_its_traceback():
    assert one_line(OSError("no number")) is None
    assert one_line(OSError(errno.EINVAL, "said", "/x")) is None


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EACCES, 2), (errno.ENAMETOOLONG, 2)]
)
def test_an_app_ends_in_one_line(capsys, number, code):
    def fails() -> None:
        raise OSError(number, "said", "a" * 5000)

    with pytest.raises(SystemExit) as ended:
        command.run(fails, [])

    assert ended.value.code == code
    line = capsys.readouterr().err
    assert line.startswith("error: 'aaa")
    assert line.count("\n") == 1
    assert len(line) < 400


class LibraryError(Exception):
    """As DuckDB, whose errors have no number."""


LibraryError.__module__ = "_duckdb"


def test_what_libraries_say():
    arrow = OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert isinstance(one_line(arrow), OutsideError)
    written = one_line(
        LibraryError('IO Error: Could not write file "/x/y.parquet": No space left on device')
    )
    assert str(written).startswith("'/x/y.parquet': No space left on device: make room")
    spilled = LibraryError(
        "failed to offload data block\nThis limit was set by the 'max_temp_directory_size' setting"
    )
    assert "make room" in str(one_line(spilled))
    assert isinstance(one_line(LibraryError("IO Error: /x/y: Permission denied")), UserError)
    assert "make room" in str(
        one_line(RuntimeError("I/O error: No space left on device (os error 28)"))
    )


def test_an_error_of_ours_stays_what_it_is_whatever_its_words():
    assert one_line(UserError("Permission denied")) is None
    assert one_line(RuntimeError("'a' is a directory")) is None


def test_a_full_disk_behind_another_error_is_told():
    def fails() -> None:
        try:
            raise OSError(errno.ENOSPC, "said")
        finally:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    with pytest.raises(RuntimeError) as caught:
        fails()
    assert "make room" in str(one_line(caught.value))


def test_a_missing_file_behind_another_error_is_not():
    error = RuntimeError("a bug")
    error.__context__ = FileNotFoundError(errno.ENOENT, "said", "/x")
    assert one_line(error) is None


def test_errors_without_a_file_are_of_the_one_that_is_named(tmp_path):
    with pytest.raises(OSError, match="said") as caught, naming(tmp_path / "a.parquet"):
        raise OSError(errno.ENOSPC, "said")
    assert f"'{tmp_path / 'a.parquet'}': No space left on device" in str(one_line(caught.value))


@pytest.mark.parametrize(
    ("letters", "shell", "code", "lines"),
    [
        (1_000_000, "| head -c 1", 141, 0),
        (1_000_000, "2>&1 | head -c 1", 141, 0),
        (9, "> /dev/full", 1, 1),
        (9, ">&-", 0, 0),
    ],
)
def test_output_that_nobody_takes(letters, shell, code, lines):
    told = (
        f"from torchrec_priors.apps import command; command.run(lambda: print('x' * {letters}), [])"
    )
    line = f'set -o pipefail; {sys.executable} -c "{told}" {shell}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (code, lines), done.stderr
    if lines:
        assert "No space left on device: make room" in done.stderr
