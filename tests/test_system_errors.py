"""What the operating system refuses is one line that names the file and the remedy."""

import errno

import pytest

from torchrec_priors.apps import command
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.system_errors import one_line


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


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EACCES, 2), (errno.ENAMETOOLONG, 2)])
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
