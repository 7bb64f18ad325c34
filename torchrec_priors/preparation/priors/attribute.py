"""Derives a user prior from an existing one by merging its small groups."""

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData


def from_attribute(by: str, data: PreparedData, *, groups: int | None, min_size: int) -> Grouping:
    """Returns the groups of user prior `by`, with the small ones as one group "others".

    Args:
        by: Name of the user prior.
        data: The data set that has it.
        groups: Largest number of groups, including "others": the largest stay. None keeps all.
        min_size: Users that a group needs to stay separate.

    Raises:
        UserError: The data set has no such user prior, or a number is out of range.
    """
    for option, value, least in (("--groups", groups, 2), ("--min-size", min_size, 1)):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, not {value}")

    attributes = [prior.name for prior in data.manifest.priors if prior.kind == "user"]
    if by not in attributes:
        raise UserError(
            f"--by: the data set has no attribute '{by}' of users: {nearest(by, attributes)}"
        )

    # The groups of a prior are ordered by size, the largest first.
    old = data.manifest.prior(by)
    stay = _largest(old.sizes, groups, min_size)
    names = [old.groups[number] for number in stay]
    names.append(_unused("others", names))

    # Every old group gets the number of its new one; those that do not stay get the last.
    new_number = np.full(len(old.groups), len(stay))
    new_number[stay] = np.arange(len(stay))

    # Ids keep the type that they have in the sequences: integers or texts.
    user, number = data.prior_pairs(by, "user_id")
    users = pa.array(user, data.user_ids(data.row_groups[0]).type)
    merged = pa.table({"user_id": users, "group": pa.array(new_number[number], pa.int32())})

    # A user of two groups that were merged is in "others" only once.
    merged = merged.group_by(["user_id", "group"]).aggregate([])
    return _numbered(
        merged, names, {"kind": "attribute", "by": by, "groups": groups, "min_size": min_size}
    )


def _largest(sizes: list[int], groups: int | None, min_size: int) -> list[int]:
    """Returns the numbers of the groups that stay separate; `sizes` are in descending order."""
    stay = [number for number, size in enumerate(sizes) if size >= min_size]
    small = sum(size > 0 for size in sizes) - len(stay)

    count = len(stay)
    if small:
        count += 1  # the group "others"
    if groups is not None and count > groups:
        stay = stay[: groups - 1]
    return stay


def _unused(name: str, names: list[str]) -> str:
    """Returns the name, changed until no other group has it."""
    while name in names:
        name = f"{name} (merged)"
    return name


def _numbered(table: pa.Table, names: list[str], made_by: dict) -> Grouping:
    """Returns the groups numbered by size, then by smallest user id; empty ones are left out.

    Args:
        table: Columns `user_id` and `group`, the latter an index into `names`.
        names: Names of the groups.
        made_by: Settings, as the manifest keeps them.
    """
    sizes = table.group_by("group").aggregate([("user_id", "count"), ("user_id", "min")])
    sizes = sizes.sort_by([("user_id_count", "descending"), ("user_id_min", "ascending")])

    # Groups without users are not in `sizes`. No row of the table has their number.
    number = np.zeros(len(names), np.int64)
    number[sizes["group"].to_numpy()] = np.arange(len(sizes))
    group = pa.array(number[table["group"].to_numpy()], pa.int32())
    members = table.set_column(1, "group", group).sort_by(
        [("user_id", "ascending"), ("group", "ascending")]
    )

    return Grouping(
        kind="user",
        groups=[names[code] for code in sizes["group"].to_pylist()],
        sizes=sizes["user_id_count"].to_pylist(),
        table=members,
        made_by=made_by,
    )
