"""The filter that published experiments begin with: users of at least so many interactions."""

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.bad_rows import BadRows
from torchrec_priors.preparation.engine.engine import Engine

OPTION = "min_history"


def at_least(log: ir.Table, least: int, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """The interactions of users with `least` or more; the others are counted as dropped.

    Args:
        log: has a row an interaction, and a column `user_id`.

    Raises:
        UserError: a number below 1, or no user who has so many.
    """
    if least < 1:
        raise UserError(f"--option: {OPTION} must be at least 1, not {least}")
    users = engine.materialise("users_with_rows", log.group_by("user_id").aggregate(n=log.count()))
    short = users.n < least
    found = engine.to_arrow(
        users.aggregate(
            users=users.count(),
            longest=users.n.max().fill_null(0),
            short=short.sum().fill_null(0),
            interactions=users.n.sum(where=short).fill_null(0),
        )
    ).to_pylist()[0]
    if found["users"] and found["short"] == found["users"]:
        raise UserError(
            f"no user of {found['users']:,} has {least:,} interactions, the longest history has {found['longest']:,}:"
            f" give a smaller one, such as --option {OPTION}={max(1, found['longest'] // 4)}"
        )
    if found["short"]:
        bad_rows.count(f"users of fewer than {least:,} interactions", int(found["short"]))
        bad_rows.count(f"interactions of users of fewer than {least:,}", int(found["interactions"]))
    return log.semi_join(users.filter(~short), "user_id") if found["short"] else log
