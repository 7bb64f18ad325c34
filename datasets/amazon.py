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

import itertools
import json
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.priors.coarsen import coarsen
from torchrec_priors.preparation.raw import BadRows, found_in, read_lists, require_files

_ATTRIBUTES = "_item2attributes.json"


def load(raw: Path, bad_rows: BadRows) -> Corpus:
    raw, name = _pair(raw)
    log = _interactions(raw / f"{name}.txt", bad_rows)
    labels = _labels(raw / f"{name}{_ATTRIBUTES}")

    # The catalogue contains the items of both files. The files have no titles, so titles are made
    # from the ids.
    item_ids = np.union1d(log["item_id"].to_numpy(), np.fromiter(labels, np.int64, len(labels)))
    titles = pa.array([f"{name} {item}" for item in item_ids.tolist()], pa.string())

    # In both priors, an item may have several labels.
    categories = ibis.memtable(_pairs(coarsen(labels), "category"))
    attributes = ibis.memtable(_pairs(labels, "attribute"))
    return Corpus(
        name=f"amazon-{name.lower()}",
        interactions=ibis.memtable(log),
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


def _interactions(file: Path, bad_rows: BadRows) -> pa.Table:
    """Returns one row for each interaction.

    Raises:
        UserError: a user has two lines.
    """
    lists = read_lists(file, bad_rows)
    user = pc.list_element(lists, 0).to_numpy()
    if len(np.unique(user)) != len(user):
        values, counts = np.unique(user, return_counts=True)
        raise UserError(
            f"{file}: user {values[counts > 1][0]} has two lines, so their order in time is unknown"
        )

    # The first number of a line is the user, and the others are items.
    length = pc.list_value_length(lists).to_numpy() - 1
    first = np.cumsum(length) - length
    position = np.arange(length.sum()) - np.repeat(first, length)
    items = np.delete(pc.list_flatten(lists).to_numpy(), first + np.arange(len(first)))

    return pa.table(
        {
            "user_id": np.repeat(user, length),
            "item_id": items,
            "timestamp": position,
            "order": np.arange(len(items)),
        }
    )


def _labels(file: Path) -> dict[int, list[int]]:
    """Reads the labels of each item, sorted and without repeats."""
    # If the file has another form, this block raises one of the errors that are handled below.
    try:
        values = json.loads(file.read_text(encoding="utf8"))
        labels = {
            int(item): sorted({_as_integer(label) for label in of_item})
            for item, of_item in values.items()
        }

        for number in itertools.chain(labels, *labels.values()):
            if not -(2**63) <= number < 2**63:
                raise ValueError(f"{number} is beyond 64 bits")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not item -> list of label ids in JSON: {str(error).splitlines()[0]}"
        ) from error
    return labels


def _as_integer(label: object) -> int:
    """Returns a label as an integer.

    Fractions are an error, because `int` would silently cut them off.
    """
    if isinstance(label, float) and not label.is_integer():
        raise ValueError(f"{label} is no integer")
    return int(label)  # type: ignore[call-overload]


def _pairs(labels: dict[int, list[int]], prefix: str) -> pa.Table:
    """Returns a table of (item_id, label), in which a label is the prefix and the label's id."""
    items = []
    names = []
    for item, of_item in labels.items():
        for label in of_item:
            items.append(item)
            names.append(f"{prefix} {label}")
    return pa.table({"item_id": pa.array(items, pa.int64()), "label": pa.array(names, pa.string())})
