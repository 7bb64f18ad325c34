"""Search in titles and ids: against a plain scan, on random titles and queries."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.prepared.id_index import IdIndex
from torchrec_priors.service.lookup import Lookup
from torchrec_priors.service.sorted_ids import SortedIds
from torchrec_priors.service.title_index import TitleIndex, words_of
from torchrec_priors.serving.catalogue import Catalogue

# Few letters, so that words meet: with accents, cases, letters of several bytes, and what separates.
LETTERS = st.sampled_from([*"aabbcAÄäéß0_ -.'’é樓夢ﬁ\n\u00a0"])
TITLE = st.one_of(st.none(), st.text(LETTERS, max_size=12))


def contains(word: str, part: str) -> bool:
    """Whether a word contains a part, or begins with it if it is short."""
    return part in word if len(part.encode()) > 2 else word.startswith(part)


def scanned(titles: list[str | None], frequency: list[int], query: str, limit: int) -> list[int]:
    """What `TitleIndex.find` returns, by looking at each title."""
    popular = sorted(range(len(titles)), key=lambda row: (-frequency[row], row))
    wanted = words_of(query)
    if not wanted:
        return [] if query.strip() else popular[:limit]
    found: list[int] = []
    for matches in (str.__eq__, str.startswith, contains):
        for row in popular:
            words = words_of(titles[row] or "")
            is_match = all(any(matches(word, part) for word in words) for part in wanted)
            if is_match and row not in found:
                found.append(row)
    return found[:limit]


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.tuples(TITLE, st.integers(0, 3)), max_size=12),
    query=st.text(LETTERS, max_size=6),
    limit=st.integers(1, 5),
)
def test_it_finds_what_a_plain_scan_finds(items, query, limit):
    titles = [title for title, _ in items]
    frequency = [count for _, count in items]
    index = TitleIndex(pa.array(titles, pa.string()), np.array(frequency, np.int64))
    assert index.find(query, limit) == scanned(titles, frequency, query, limit)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("heat", [0, 2, 1, 3]),  # whole words, the most popular first; then beginnings; then parts
        ("HEA", [1, 0, 2, 3]),
        ("eat", [1, 0, 2, 3]),
        ("the he", [2, 1]),
        ("amelie", [4]),
        ("schindlers list", [5]),
        ("schindler’s", [5]),
        ("樓", [6]),
        ("夢", [6]),
        ("rs", []),
        ("heat zzz", []),
        ("!?", []),
    ],
)
def test_titles_are_found_by_their_words(query, rows):
    titles = [
        "Heat (1995)",
        "Heathers",
        "In the heat",
        "Sheath",
        "Amélie",
        "Schindler's List",
        "紅樓夢",
    ]
    frequency = np.array([5, 9, 2, 1, 0, 0, 0])
    assert TitleIndex(pa.array(titles), frequency).find(query, 10) == rows


def test_a_part_of_a_larger_array_of_titles_is_indexed_as_it_is():
    whole = pa.array(["zero", "one", None, "two words", "three"])
    index = TitleIndex(whole[1:4], np.zeros(3, np.int64))
    assert index.find("two", 5) == [2]
    assert index.find("zero", 5) == index.find("three", 5) == []


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.text(st.sampled_from("ab1é樓"), min_size=1, max_size=4), unique=True),
    start=st.text(st.sampled_from("ab1é樓"), max_size=3),
    limit=st.integers(1, 4),
)
def test_ids_are_found_by_their_first_characters(ids, start, limit):
    places = SortedIds(pa.array(ids, pa.string())).beginning(start, limit)
    matching = sorted((each for each in ids if each.startswith(start)), key=str.encode)
    assert SortedIds(pa.array(ids, pa.string())).count(start) == len(matching)
    assert [ids[place] for place in places] == matching[:limit]


def test_the_item_with_the_very_id_comes_first_and_beginnings_of_ids_come_last():
    ids = ["50", "500", "7"]
    titles = ["Fifty", "Five hundred", "The 50 most"]
    texts = pa.array(ids)
    lookup = Lookup(
        Catalogue("shop", texts, pa.array(titles), texts),
        TitleIndex(pa.array(titles), np.array([1, 2, 3])),
        IdIndex(pa.array(["u2", "u10", "v"])),
    )
    assert lookup.items("50", 9) == [0, 2, 1]
    assert lookup.items(" 50 ", 2) == [0, 2]
    assert lookup.items("", 2) == [2, 1]
    assert lookup.users("u", 9) == ["u10", "u2"]
    assert lookup.users("", 1) == ["u10"]


def test_an_index_is_small():
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(500)]
    titles = [" ".join(rng.choice(words, 6, replace=False)) for _ in range(1_000)]
    index = TitleIndex(pa.array(titles), rng.integers(0, 9, len(titles)))
    assert index.nbytes < 4 * 6 * len(titles) + 4 * len(titles) + 40 * len(words)
