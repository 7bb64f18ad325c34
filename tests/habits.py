"""A prepared log of users with habits: two thirds of their items are three favourites of theirs."""

import json

import numpy as np

from torchrec_priors.preparation.prepare import Settings, prepare

USERS = 40
ITEMS = 30
LENGTH = 24


def prepared(folder):
    """Writes the log below `folder`, and returns the folder of the prepared data set."""
    random = np.random.default_rng(0)
    lines = []
    for user in range(1, USERS + 1):
        favourites = random.choice(ITEMS, 3, replace=False)
        items = np.where(
            random.random(LENGTH) < 2 / 3,
            random.choice(favourites, LENGTH),
            random.integers(ITEMS, size=LENGTH),
        )
        lines.append(" ".join(map(str, [user, *(items + 1)])))
    raw = folder / "raw"
    raw.mkdir()
    (raw / "Shop.txt").write_text("\n".join(lines) + "\n")
    labels = {str(item + 1): [item % 3 + 1] for item in range(ITEMS)}
    (raw / "Shop_item2attributes.json").write_text(json.dumps(labels))
    prepare(Settings("amazon", raw, 2), folder / "prepared")
    return folder / "prepared"
