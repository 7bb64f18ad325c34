"""Our own files: whole or not there, never written through a link, and never believed when damaged."""

import json
import os
from pathlib import Path

import pytest

from torchrec_priors.common.files import (
    append_to,
    check_file,
    check_name,
    check_no_link,
    check_path,
    new_file,
    partial_of,
    read_json,
    remove_leftover,
    write_json,
    write_whole,
)
from torchrec_priors.config import read_toml
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.priors.mapping import from_mapping
from torchrec_priors.prepared.id_files import read_ids

VALUES = {"name": "shop", "ünï": [1, 2.5, None, True], "inner": {"b": 1, "a": [{}]}}


def test_a_new_file_takes_the_place_at_the_end(tmp_path):
    file = tmp_path / "x"
    file.write_text("old")

    with new_file(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"

    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "x"
    file.write_text("old")

    def fail():
        with new_file(file) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("planted", ["the partial file", "the file"])
def test_a_planted_link_is_not_followed(tmp_path, planted):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file = tmp_path / "x"
    (file if planted == "the file" else partial_of(file)).symlink_to(victim)

    write_whole(file, "new")

    assert victim.read_text() == "precious"
    assert not file.is_symlink()
    assert file.read_text() == "new"


def test_only_regular_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")

    for name in ("folder", "pipe", "link"):
        with pytest.raises(UserError, match=name):
            write_whole(tmp_path / name, "new")

    assert {path.name for path in tmp_path.iterdir()} == {"folder", "pipe", "link"}


def test_json_comes_back(tmp_path):
    file = tmp_path / "folder" / "x.json"
    write_json(file, VALUES)
    assert read_json(file, remedy="train again") == VALUES
    file.write_text(json.dumps(json.loads(file.read_text())))  # another layout, the same content
    assert read_json(file, remedy="train again") == VALUES


def test_json_without_a_checksum_is_read(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(VALUES))
    assert read_json(tmp_path / "x.json", remedy="train again") == VALUES


@pytest.mark.slow
def test_every_bit_of_json_counts(tmp_path):
    """A flipped bit is found, or changes nothing but the layout or the name of the checksum."""
    file = tmp_path / "x.json"
    write_json(file, VALUES)
    whole = file.read_bytes()

    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            values = read_json(file, remedy="train again")
        except UserError:
            continue
        assert {key: values[key] for key in VALUES} == VALUES


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a": ' * 200_000,
        b"9" * 10_000,
    ],
)
def test_damaged_json_is_one_line(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^'.*x\.json' .*: train again$"):
        read_json(tmp_path / "x.json", remedy="train again")


def test_missing_json_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"x\.json' is missing: train again"):
        read_json(tmp_path / "x.json", remedy="train again")
    with pytest.raises(UserError, match="is a folder"):
        read_json(tmp_path, remedy="train again")


@pytest.mark.parametrize(
    "name", ["", " a", ".a", "..", "a/b", "../../x", "a\\b", "a\0b", "a\nb", "c:d", "ü" * 101]
)
def test_names_that_could_lead_elsewhere(name):
    with pytest.raises(UserError, match="--name: "):
        check_name(name, "--name")


@pytest.mark.parametrize("name", ["genre", "graph8", "Über uns", "a.b", "ids-1", "日本"])
def test_names_that_cannot(name):
    assert check_name(name, "--name") == name


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "priors/genre.parquet",
        "20230501/x y.parquet",
        ".hidden/ü:1",
        "a..b/..c",
        "3:x",
        "f" * 200,
    ],
)
def test_paths_that_stay_inside(path):
    assert check_path(path, "the file") == path


@pytest.mark.parametrize(
    "path",
    ["", "/", "/abs/path", "a//b", "a/", "..", "a/../b", "./a", "a/.", "..\\a", "C:/a", "c:a", "a\0b", "a\nb", "a/\x7f",
     "a/" + "f" * 300, "\udcff"],
)  # fmt: skip
def test_paths_that_lead_out_or_to_no_file(path):
    with pytest.raises(UserError, match=r"the file .* rename it there"):
        check_path(path, "the file")


def test_what_is_added_is_not_added_through_a_link(tmp_path):
    with append_to(tmp_path / "log") as log:
        log.write("1\n")
    with append_to(tmp_path / "log") as log:
        log.write("2\n")
    assert (tmp_path / "log").read_text() == "1\n2\n"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        append_to(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_of_a_leftover_link_the_link_alone_is_removed(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for what in ("folder", "nothing"):
        (tmp_path / "link").symlink_to(tmp_path / what)
        remove_leftover(tmp_path / "link")
        assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "inner").is_dir()
    remove_leftover(tmp_path / "folder")
    remove_leftover(tmp_path / "folder")  # which is not there
    assert list(tmp_path.iterdir()) == []


def test_a_link_on_the_way_into_a_folder_is_named(tmp_path):
    (tmp_path / "run" / "eval" / "test").mkdir(parents=True)
    check_no_link(tmp_path / "run" / "eval" / "test", tmp_path / "run")
    (tmp_path / "whole").symlink_to(tmp_path / "run")
    check_no_link(tmp_path / "whole" / "eval" / "test", tmp_path / "whole")
    (tmp_path / "run" / "eval").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "eval").symlink_to(tmp_path / "elsewhere")
    for inside in ("eval", "eval/test"):
        with pytest.raises(
            UserError, match=r"run/eval' is a link, through which nothing is written"
        ):
            check_no_link(tmp_path / "run" / inside, tmp_path / "run")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "--users: there is no file"),
        (Path.mkdir, "--users: there is no file"),
        (os.mkfifo, "is a pipe or a device: write what it holds to a file"),
        (
            lambda path: path.symlink_to("/dev/zero"),
            "is a pipe or a device: write what it holds to a file",
        ),
    ],
    ids=["missing", "folder", "pipe", "endless"],
)
def test_a_file_that_a_user_names_is_one_that_ends(make, says, tmp_path):
    make(tmp_path / "given")
    with pytest.raises(UserError, match=says):
        check_file(tmp_path / "given", "--users")


@pytest.mark.parametrize(
    "read",
    [
        lambda file: read_ids(file, "user_id", option="--users"),
        lambda file: from_mapping("mood", "item_id", file, None),
        lambda file: read_toml(file, "--config"),
    ],
    ids=["ids", "mapping", "toml"],
)
def test_what_never_ends_is_not_read(read):
    with pytest.raises(UserError, match="'/dev/zero' is a pipe or a device"):
        read(Path("/dev/zero"))
