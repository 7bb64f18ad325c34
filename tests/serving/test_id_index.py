"""Ids are found where they are, whatever their hashes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.prepared import id_index
from torchrec_priors.prepared.id_index import IdIndex, text_hash, text_hashes

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(st.lists(TEXTS, unique=True, max_size=60), st.lists(TEXTS, max_size=30), st.integers(0, 5))
def test_places_are_those_of_a_dictionary(ids, others, first):
    # A slice of an array has an offset, which the hashes must respect.
    ids = pa.array(ids, pa.string()).slice(min(first, len(ids)))
    place = {text: number for number, text in enumerate(ids.to_pylist())}
    wanted = [*others, *reversed(ids.to_pylist()), *others]
    found = IdIndex(ids).places(pa.array(wanted, pa.string()))
    assert found.tolist() == [place.get(text, -1) for text in wanted]


@pytest.mark.parametrize("hashes", [1, 3])
def test_ids_with_equal_hashes_are_told_apart(monkeypatch, hashes):
    monkeypatch.setattr(
        id_index, "text_hashes", lambda texts: text_hashes(texts) % np.uint64(hashes)
    )
    monkeypatch.setattr(id_index, "text_hash", lambda text: text_hash(text) % hashes)
    ids = [f"item {number}" for number in range(50)]
    index = IdIndex(pa.array(ids))
    wanted = [*ids, "x", "item 50"]
    places = [*range(50), -1, -1]
    assert index.places(pa.array(wanted)).tolist() == places
    assert [int(index.places(pa.array([one]))[0]) for one in wanted] == places


def test_an_id_that_is_missing_is_not_found():
    index = IdIndex(pa.array(["", "a"]))
    for copies in (1, 40):
        wanted = pa.array([None, "", "a"] * copies, pa.string())
        assert index.places(wanted).tolist() == [-1, 0, 1] * copies


def test_hashes_differ_and_do_not_depend_on_neighbours():
    texts = pa.array([str(number) for number in range(20_000)])
    hashes = text_hashes(texts)
    assert len(np.unique(hashes)) == len(texts)
    assert text_hashes(texts.slice(777, 3)).tolist() == hashes[777:780].tolist()
    assert [text_hash(text.as_py()) for text in texts[777:780]] == hashes[777:780].tolist()
    assert not len(text_hashes(pa.array([], pa.string())))


@settings(deadline=None)
@given(TEXTS)
def test_one_text_has_the_hash_that_it_has_among_others(text):
    assert text_hash(text) == int(text_hashes(pa.array([text, ""]))[0])


def test_memory_is_twelve_bytes_an_id():
    assert IdIndex(pa.array([f"{number:024x}" for number in range(1_000)])).nbytes == 12_000
