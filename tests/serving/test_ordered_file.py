"""Rows added in any order stand in the order of their numbers; a file is there whole or not at all."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchrec_priors.ranks.process import join
from torchrec_priors.serving import ordered_file
from torchrec_priors.serving.ordered_file import OrderedFile


def _table(numbers):
    return pa.table({"user_id": pa.array([f"u{i}" for i in numbers], pa.string()),
                     "items": pa.array([list(range(i % 4)) for i in numbers], pa.list_(pa.int32()))})  # fmt: skip


@pytest.fixture(scope="module")
def ranks():
    with join() as ranks:
        yield ranks


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_order(ranks, tmp_path, data):
    rows = data.draw(st.integers(1, 60))
    order = data.draw(st.permutations(range(rows)))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered_file, "_ENTRIES", data.draw(st.integers(1, 100)))
        patch.setattr(ordered_file, "_BUCKETS", data.draw(st.integers(1, 10)))
        with OrderedFile(tmp_path / "out.parquet", rows, 4, ranks) as file:
            for numbers in np.split(np.array(order), cuts):
                file.add(_table(numbers.tolist()), numbers)
            file.finish()
    assert pq.read_table(tmp_path / "out.parquet") == _table(range(rows))
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize("numbers", [[0, 2], [0, 1, 1]], ids=["lost", "twice"])
def test_a_row_that_is_lost_or_twice_there_is_an_error_and_leaves_the_old_file(
    ranks, tmp_path, numbers
):
    (tmp_path / "out.parquet").write_text("old")
    with OrderedFile(tmp_path / "out.parquet", 3, 4, ranks) as file:
        file.add(_table(numbers), np.array(numbers))
        with pytest.raises(AssertionError):
            file.finish()
    assert (tmp_path / "out.parquet").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
