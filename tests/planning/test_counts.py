"""Numbers as people write them."""

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.planning.counts import read_count, read_counts, short


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1255665", 1_255_665),
        ("1_255_665", 1_255_665),
        ("1.26M", 1_260_000),
        ("100k", 100_000),
        ("10B", 10_000_000_000),
        ("10G", 10_000_000_000),
        ("1e9", 1_000_000_000),
        (" 2 t ", 2_000_000_000_000),
    ],
)
def test_numbers(text, number):
    assert read_count(text, "--items") == number


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "1.23456k", "many", "1M2", "1e", "0.1k5", "1,000"]
)
def test_what_is_no_number_is_named(text):
    with pytest.raises(UserError, match="--items: "):
        read_count(text, "--items")


def test_lists_are_ascending_and_without_repeats():
    assert read_counts("64,8,16,8", "--ranks") == [8, 16, 64]
    with pytest.raises(UserError, match="--ranks: ''"):
        read_counts("8,", "--ranks")
    with pytest.raises(UserError, match="--ranks: more than 100 numbers"):
        read_counts(",".join(map(str, range(1, 102))), "--ranks")


@pytest.mark.parametrize("number", [7, 999, 1_000, 1_260_000, 10_000_000, 1_000_000_000])
def test_short_numbers_are_read_as_the_same(number):
    assert read_count(short(number), "--items") == number
