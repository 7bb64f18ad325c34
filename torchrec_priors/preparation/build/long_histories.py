"""The filter that published experiments begin with: users of at least so many interactions."""

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.bad_rows import BadRows

OPTION = "min_history"


def at_least(log: ir.Table, least: int, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """The interactions of users with `least` or more; the others are counted as dropped.

    Early, so that nothing is computed for them; what a corpus says as its `min_history` is what decides. Where the
    engine is to keep short histories, all users stay.

    Args:
        log: has a row an interaction, and a column `user_id`.

    Raises:
        UserError: a number below 1, or no user who has so many.
    """
    if least < 1:
        raise UserError(f"--option: {OPTION} must be at least 1, not {least}")
    if engine.keeps_short:
        return log
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
        raise none_is_long(found["users"], least, found["longest"])
    if found["short"]:
        for account, number in zip(
            accounts(least), (found["short"], found["interactions"]), strict=True
        ):
            bad_rows.count(account, int(number))
    return log.semi_join(users.filter(~short), "user_id") if found["short"] else log


def accounts(least: int) -> tuple[str, str]:
    """Under which words users of fewer than `least` interactions are counted, and what they did."""
    return (
        f"users of fewer than {least:,} interactions",
        f"interactions of users of fewer than {least:,}",
    )


def none_is_long(users: int, least: int, longest: int) -> UserError:
    return UserError(
        f"no user of {users:,} has {least:,} interactions, the longest history has {longest:,}:"
        f" give a smaller one, such as --option {OPTION}={max(1, longest // 4)}"
    )
