"""Amazon Reviews 2014, 5-core (McAuley et al.; research use), in S3-Rec's text format.

The raw folder holds one pair of files. `NAME.txt` has a line for each user: the user's id and then
item ids in order of time, separated by blanks. `NAME_item2attributes.json` maps an item to the ids
of its category labels. An item may have several labels, and the files give no names for them.
Expected for Beauty: 22,363 users, 12,101 items, 198,502 interactions, 637 labels.

There are no timestamps. The position of an interaction in its line is used instead, and the
manifest says so.

Priors: `category` (the category prior: raw labels coarsened to at most 20 groups by
`torchrec_priors/preparation/priors/coarsen.py`) and `attribute` (every raw label).
Source: https://github.com/RUCAIBox/CIKM2020-S3Rec and https://jmcauley.ucsd.edu/data/amazon/.
"""

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.priors.coarsen import coarsen
from torchrec_priors.preparation.raw import (
    LINE,
    BadRows,
    found_in,
    read_histories,
    read_label_lists,
    require_files,
)

_ATTRIBUTES = "_item2attributes.json"


def load(raw: Path, bad_rows: BadRows) -> Corpus:
    raw, name = _pair(raw)
    log = read_histories(raw / f"{name}.txt", bad_rows)
    labels = read_label_lists(raw / f"{name}{_ATTRIBUTES}")

    # The catalogue contains the items of both files. The files have no titles, so titles are made
    # from the ids.
    item_ids = np.union1d(log["item_id"].to_numpy(), np.fromiter(labels, np.int64, len(labels)))
    titles = pa.array([f"{name} {item}" for item in item_ids.tolist()], pa.string())

    # In both priors, an item may have several labels.
    categories = ibis.memtable(_pairs(coarsen(labels), "category"))
    attributes = ibis.memtable(_pairs(labels, "attribute"))
    return Corpus(
        name=f"amazon-{name.lower()}",
        interactions=ibis.memtable(log.drop_columns([LINE])),
        items=ibis.memtable(pa.table({"item_id": item_ids, "title": titles})),
        has_times=False,
        category_prior="category",
        default_horizon=1,
        item_priors=[
            Labels("category", categories, remainder="other"),
            Labels("attribute", attributes, remainder="no attribute"),
        ],
    )


def _pair(raw: Path) -> tuple[Path, str]:
    """Returns the folder and the NAME of the pair of files, in `raw` or in one of its folders."""
    if not raw.is_dir():
        raise UserError(f"--raw: there is no folder '{raw}'")

    # An archive may have been unpacked into a folder inside `raw`.
    files = sorted(raw.glob(f"*{_ATTRIBUTES}")) or sorted(raw.glob(f"*/*{_ATTRIBUTES}"))
    names = [str(file.relative_to(raw)).removesuffix(_ATTRIBUTES) for file in files]
    if len(names) != 1:
        content = f"found {len(names)} ({', '.join(names)})" if names else found_in(raw)
        raise UserError(
            f"--raw: '{raw}' must hold one NAME{_ATTRIBUTES} and its NAME.txt; {content}"
        )

    folder = files[0].parent
    name = Path(names[0]).name
    require_files(folder, [f"{name}.txt"])
    return folder, name


def _pairs(labels: dict[int, list[int]], prefix: str) -> pa.Table:
    """Returns a table of (item_id, label), in which a label is the prefix and the label's id."""
    items = []
    names = []
    for item, of_item in labels.items():
        for label in of_item:
            items.append(item)
            names.append(f"{prefix} {label}")
    return pa.table({"item_id": pa.array(items, pa.int64()), "label": pa.array(names, pa.string())})
