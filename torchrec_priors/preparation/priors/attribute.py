"""Derives a user prior from an existing one by merging its small groups."""

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData


def from_attribute(by: str, data: PreparedData, *, groups: int | None, min_size: int) -> Grouping:
    """Returns the groups of the user prior `by`, with the small ones merged into "others".

    Args:
        by: the name of the user prior.
        data: the data set with this prior.
        groups: the maximum number of groups, including "others". The largest groups stay. If None,
            there is no maximum.
        min_size: the number of users that a group needs to stay separate.

    Raises:
        UserError: the data set has no such user prior, or a number is out of range.
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

    # Every old group gets the number of its new group. Groups that are merged get the last number.
    new_number = np.full(len(old.groups), len(stay))
    new_number[stay] = np.arange(len(stay))

    # Ids keep the type that they have in the sequences, integers or texts.
    user, number = data.prior_pairs(by, "user_id")
    users = pa.array(user, data.user_ids(data.row_groups[0]).type)
    merged = pa.table({"user_id": users, "group": pa.array(new_number[number], pa.int32())})

    # A user may have been in two groups that are merged, but is in "others" only once.
    merged = merged.group_by(["user_id", "group"]).aggregate([])
    return _numbered(
        merged, names, {"kind": "attribute", "by": by, "groups": groups, "min_size": min_size}
    )


def _largest(sizes: list[int], groups: int | None, min_size: int) -> list[int]:
    """Returns the numbers of the groups that stay separate.

    Args:
        sizes: the sizes of all groups, in descending order.
        groups: the maximum number of groups, as in `from_attribute`.
        min_size: the minimum size, as in `from_attribute`.
    """
    stay = [number for number, size in enumerate(sizes) if size >= min_size]
    small = sum(size > 0 for size in sizes) - len(stay)

    count = len(stay)
    if small:
        # The small groups become one more group, "others".
        count += 1
    if groups is not None and count > groups:
        stay = stay[: groups - 1]
    return stay


def _unused(name: str, names: list[str]) -> str:
    """Returns the name, with "(merged)" added as often as needed until no other group has it."""
    while name in names:
        name = f"{name} (merged)"
    return name


def _numbered(table: pa.Table, names: list[str], made_by: dict) -> Grouping:
    """Numbers the groups by size, and equally large groups by their smallest user id.

    Empty groups are left out.

    Args:
        table: a table of `user_id` and `group`, an index into `names`.
        names: the names of the groups.
        made_by: the settings of the prior for the manifest.
    """
    sizes = table.group_by("group").aggregate([("user_id", "count"), ("user_id", "min")])
    sizes = sizes.sort_by([("user_id_count", "descending"), ("user_id_min", "ascending")])

    # Groups without users are not in `sizes`. Their entries in `number` are never used.
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
