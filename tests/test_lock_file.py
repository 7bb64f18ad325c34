"""Only one holds the lock of a file, even if each holder removes the file."""

import os
import threading
from pathlib import Path

import pytest

from torchrec_priors.common.lock_file import lock_file


def test_a_held_lock_is_not_given_to_another(tmp_path):
    file = tmp_path / "lock"
    held = lock_file(file, wait=False)
    assert held is not None
    assert lock_file(file, wait=False) is None
    os.close(held)
    again = lock_file(file, wait=False)
    assert again is not None
    os.close(again)


def test_a_lock_of_a_removed_file_keeps_nobody_out(tmp_path):
    file = tmp_path / "lock"
    held = lock_file(file)
    file.unlink()
    other = lock_file(file, wait=False)
    assert other is not None
    assert os.path.samestat(os.fstat(other), file.stat())
    os.close(held)
    os.close(other)


def test_who_waits_for_a_file_that_is_then_removed_locks_the_new_one(tmp_path):
    file = tmp_path / "lock"
    held = lock_file(file)
    opened = threading.Event()
    prepared = []

    def prepare():
        prepared.append(file.exists())
        opened.set()

    found = []
    waiting = threading.Thread(target=lambda: found.append(lock_file(file, prepare=prepare)))
    waiting.start()
    opened.wait()
    waiting.join(0.2)
    assert not found
    file.unlink()
    os.close(held)
    waiting.join()
    assert os.path.samestat(os.fstat(found[0]), file.stat())
    # The removed file was there at the first attempt; the second attempt created its own.
    assert prepared == [True, False]
    os.close(found[0])


def test_holders_that_remove_the_file_never_meet(tmp_path):
    file = tmp_path / "lock"
    inside = []
    met = []

    def work():
        for _ in range(50):
            held = lock_file(file)
            inside.append(1)
            met.append(len(inside))
            inside.pop()
            file.unlink()
            os.close(held)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [1] * 200
    assert not file.exists()


def test_a_missing_folder_is_an_error_and_may_be_prepared(tmp_path: Path):
    file = tmp_path / "folder" / "lock"
    with pytest.raises(FileNotFoundError):
        lock_file(file)
    held = lock_file(file, prepare=lambda: file.parent.mkdir(exist_ok=True))
    assert file.exists()
    os.close(held)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        lock_file(tmp_path / "lock")
