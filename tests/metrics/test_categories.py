"""Labels of every kind of prior of a data set are those of its file."""

import shutil
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest


def _grouping(kind, items):
    rows = np.arange(0, items, 2, dtype=np.int32)  # every other item is in no group
    table = pa.table({"item": rows, "group": (rows // 2 % 3).astype(np.int32)})
    return Grouping(kind, ["a", "b", "c"], [1, 1, 1], table, made_by={"by": "test"})


@pytest.fixture(scope="module")
def folder(small_data, tmp_path_factory):
    """A data set with a prior of every kind, and one of a kind that nobody knows."""
    folder = tmp_path_factory.mktemp("kinds") / "data"
    shutil.copytree(small_data, folder)
    for name, kind in (("circle", "graph"), ("odd", "weather")):
        manifest = read_manifest(folder)
        add_prior(folder, name, _grouping(kind, manifest.counts["items"]), manifest)
    return folder


@pytest.mark.parametrize(
    ("name", "entity", "column"),
    [
        ("genre", "item", "item"),
        ("circle", "item", "item"),
        ("rating", "event", "event"),
        ("age", "user", "user_id"),
    ],
)
def test_labels_are_those_of_the_file(folder, name, entity, column):
    data = PreparedData(folder)
    ids = np.concatenate([data.user_ids(group).to_numpy() for group in data.row_groups]).tolist()
    entities = {"item": list(range(data.items)), "event": list(range(5)), "user": ids}[entity]
    groups = defaultdict(set)
    for row in pq.read_table(folder / f"priors/{name}.parquet").to_pylist():
        groups[row[column]].add(row["group"])
    found = Categories.of_prior(data, name)
    assert (found.entity, found.groups) == (entity, data.manifest.prior(name).groups)
    index, group = found.expand(np.arange(len(entities)))
    pairs = set(zip((entities[number] for number in index.tolist()), group.tolist(), strict=True))
    assert pairs == {(entity, group) for entity in entities for group in groups[entity]}
    assert len(pairs) == len(index) > 0


def test_a_prior_of_an_unknown_kind_is_named(folder):
    with pytest.raises(
        UserError,
        match=(
            r"prior 'odd' is of an unknown kind, 'weather' \(known: item, graph, event, user\):"
            r" prepare again$"
        ),
    ):
        Categories.of_prior(PreparedData(folder), "odd")
