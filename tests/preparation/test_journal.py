"""What a stage left counts as finished only as it was left, and what the journal says only as it was written."""

import pytest

from torchrec_priors.preparation.engine.journal import Journal


@pytest.fixture
def left(tmp_path):
    """The journal's file of a process that finished two stages."""
    (tmp_path / "table").write_bytes(b"rows of it")
    journal = Journal(tmp_path / "journal.jsonl")
    journal.finish("first", noted={"rows": 3})
    journal.finish("second", "key", files=[tmp_path / "table"])
    return journal.file


def test_the_next_process_goes_on(left):
    journal = Journal(left)
    assert journal.finished("first") == {"rows": 3}
    assert journal.finished("second", "key") == {}
    assert journal.finished("second") is None
    assert journal.finished("third") is None


@pytest.mark.parametrize("change", [b"rows of xt", b"rows of i", b"", None])
def test_a_file_that_is_not_as_it_was_left_is_not_finished(left, change):
    if change is None:
        (left.parent / "table").unlink()
    else:
        (left.parent / "table").write_bytes(change)
    assert Journal(left).finished("second", "key") is None
    assert Journal(left).finished("first") == {"rows": 3}


@pytest.mark.slow
def test_no_bit_of_the_journal_changes_what_it_says(left):
    content = left.read_bytes()
    said = [{"rows": 3}, None]
    for place in range(len(content)):
        for bit in (0, 3, 6):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            left.write_bytes(changed)
            journal = Journal(left)
            assert journal.finished("first") in said
            assert journal.finished("second", "key") in ({}, None)
            assert len(journal._lines) < 2
            assert len(Journal(left)._lines) == len(journal._lines), "the damaged line is gone"


def test_a_line_that_was_cut_counts_for_nothing_and_the_next_is_whole(left):
    left.write_bytes(left.read_bytes()[:-5])
    journal = Journal(left)
    assert journal.finished("second", "key") is None
    journal.finish("third")
    assert Journal(left).finished("third") == {}
    assert Journal(left).finished("first") == {"rows": 3}
