"""Texts are read as Arrow has them, whatever their type, and wherever the array begins."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.serving.text_rows import TextRows

TEXTS = st.none() | st.text(st.characters(blacklist_categories=["Cs"]), max_size=9)


@settings(deadline=None)
@given(
    st.lists(TEXTS, max_size=20),
    st.integers(0, 5),
    st.sampled_from([pa.string(), pa.large_string()]),
)
def test_texts_are_those_of_arrow(texts, first, kind):
    values = pa.array(texts, kind).slice(min(first, len(texts)))
    rows = list(reversed(range(len(values))))
    assert TextRows(values).of(rows) == [values[row].as_py() or "" for row in rows]


@pytest.mark.parametrize("values", [pa.array([7, None, 12]), pa.nulls(2), pa.array([])])
def test_other_values_are_converted(values):
    wanted = ["" if value is None else str(value) for value in values.to_pylist()]
    assert TextRows(values).of(list(range(len(values)))) == wanted
