"""A user prior from one that is there, with its small groups merged."""

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData


def from_attribute(by: str, data: PreparedData, *, groups: int | None, min_size: int) -> Grouping:
    """The groups of user prior `by`, the small ones as one group "others".

    Args:
        groups: how many there may be, "others" included: the largest stay; None for all.
        min_size: users that a group needs to stay by itself.

    Raises:
        UserError: the data set has no such user prior, or a number is out of its range.
    """
    for option, value, least in (("--groups", groups, 2), ("--min-size", min_size, 1)):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, not {value}")
    attributes = [prior.name for prior in data.manifest.priors if prior.kind == "user"]
    if by not in attributes:
        raise UserError(
            f"--by: the data set has no attribute '{by}' of users: {nearest(by, attributes)}"
        )
    old = data.manifest.prior(by)
    stay = [
        number for number, size in enumerate(old.sizes) if size >= min_size
    ]  # the largest come first
    small = sum(size > 0 for size in old.sizes) - len(stay)
    if groups is not None and len(stay) + bool(small) > groups:
        stay = stay[: groups - 1]
    rest = "others"
    while rest in (old.groups[number] for number in stay):
        rest = f"{rest} (merged)"
    user, number = data.prior_pairs(by, "user_id")
    names = [*(old.groups[number] for number in stay), rest]
    code = np.full(len(old.groups), len(stay))
    code[stay] = np.arange(len(stay))
    users = pa.array(user, data.user_ids(data.row_groups[0]).type)
    merged = pa.table({"user_id": users, "group": pa.array(code[number], pa.int32())})
    merged = merged.group_by(["user_id", "group"]).aggregate(
        []
    )  # a user of two merged groups stands once
    return _numbered(
        merged, names, {"kind": "attribute", "by": by, "groups": groups, "min_size": min_size}
    )


def _numbered(table: pa.Table, names: list[str], made_by: dict) -> Grouping:
    """Groups numbered by size, then by smallest user id; empty ones left out."""
    found = table.group_by("group").aggregate([("user_id", "count"), ("user_id", "min")])
    found = found.sort_by([("user_id_count", "descending"), ("user_id_min", "ascending")])
    number = np.zeros(len(names), np.int64)
    number[found["group"].to_numpy()] = np.arange(len(found))
    group = pa.array(number[table["group"].to_numpy()], pa.int32())
    return Grouping(
        kind="user",
        groups=[names[code] for code in found["group"].to_pylist()],
        sizes=found["user_id_count"].to_pylist(),
        table=table.set_column(1, "group", group).sort_by(
            [("user_id", "ascending"), ("group", "ascending")]
        ),
        made_by=made_by,
    )
