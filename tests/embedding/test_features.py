"""Side features: columns of the catalogue become codes, every item has one, mistakes are named."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from torchrec_priors.embedding.features import load_features
from torchrec_priors.errors import UserError

CATALOGUE = pa.table(
    {
        "item": [0, 1, 2, 3, 4],
        "item_id": [9, 8, 7, 6, 5],
        "frequency": [1, 1, 1, 1, 1],
        "brand": ["b", None, "a", "b", "c"],
        "price": [1.0, 2.0, None, 400.0, float("nan")],
        "tags": [["x"], [], ["y"], [], []],
    }
)
DATA = SimpleNamespace(catalogue=lambda: CATALOGUE)


def test_texts_are_categories_and_a_missing_one_is_the_last():
    (brand,) = load_features(["brand"], DATA)
    assert (brand.code_I.tolist(), brand.size) == ([1, 3, 0, 1, 2], 4)


def test_numbers_are_cut_into_groups_of_equal_size():
    (price,) = load_features(["price:3"], DATA)
    assert price.code_I.tolist() == [0, 1, 3, 2, 3]
    many = SimpleNamespace(
        catalogue=lambda: pa.table({"price": np.random.default_rng(0).exponential(size=1000)})
    )
    (price,) = load_features(["price:8"], many)
    assert np.bincount(price.code_I).tolist() == [125] * 8


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("brnad", "no column 'brnad': did you mean 'brand'"),
        ("item_id", "no column 'item_id'"),
        ("brand:3", "needs a column of numbers"),
        ("price:x", "at least 2 groups"),
        ("tags", "holds lists"),
    ],
)
def test_mistakes_are_named(name, says):
    with pytest.raises(UserError, match=says):
        load_features([name], DATA)
