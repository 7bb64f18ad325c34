"""A corpus of five items, fewer than some tests have ranks: its file for `prepare`, and the prepared folder."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.prepare import Settings, prepare

ITEMS, USERS = 5, 12


def load(raw, bad_rows):
    random = np.random.default_rng(0)
    lengths = random.integers(9, 16, USERS)
    users = np.repeat(np.arange(USERS), lengths)
    order = np.arange(len(users))
    items = random.choice(ITEMS, len(users), p=[0.45, 0.25, 0.15, 0.1, 0.05])
    item_ids = pa.array([f"i{number}" for number in range(ITEMS)])
    log = {
        "user_id": users,
        "item_id": item_ids.take(items),
        "timestamp": 1000 * order,
        "order": order,
    }
    catalogue = {
        "item_id": item_ids,
        "title": item_ids,
        "colour": ["red", "green", "red", None, "blue"],
    }
    labels = {"item_id": item_ids.slice(0, 4), "label": ["food", "toys", "food", "toys"]}
    return Corpus(
        name="few",
        interactions=ibis.memtable(pa.table(log)),
        items=ibis.memtable(pa.table(catalogue)),
        item_priors=[Labels("kind", ibis.memtable(pa.table(labels)), remainder="no kind")],
        category_prior="kind",
        default_horizon=2,
    )


def prepare_few_items(folder: Path) -> Path:
    """The prepared folder, in `folder`."""
    raw = folder / "raw"
    raw.mkdir()
    prepare(Settings(__file__, raw), folder / "data")
    return folder / "data"
