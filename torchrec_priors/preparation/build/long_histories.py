"""The filter that published experiments begin with: users with a minimum number of interactions."""

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.bad_rows import BadRows

OPTION = "min_history"


def at_least(log: ir.Table, least: int, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """The interactions of users with at least `least`; the others are counted as dropped.

    A corpus calls this early, so nothing is computed for the other users; its `min_history` is
    what decides in the end. If the engine is to keep short histories, all users stay.

    Args:
        log: one row per interaction, with a column `user_id`.

    Raises:
        UserError: a number below 1, or no user with this number of interactions.
    """
    if least < 1:
        raise UserError(f"--option: {OPTION} must be at least 1, not {least}")
    if engine.keeps_short:
        return log

    users = engine.materialise("users_with_rows", log.group_by("user_id").aggregate(n=log.count()))
    short = users.n < least
    totals = engine.to_arrow(
        users.aggregate(
            users=users.count(),
            longest=users.n.max().fill_null(0),
            short=short.sum().fill_null(0),
            interactions=users.n.sum(where=short).fill_null(0),
        )
    ).to_pylist()[0]

    # An empty log is reported later, with the number of dropped rows.
    if totals["users"] and totals["short"] == totals["users"]:
        raise none_is_long(totals["users"], least, totals["longest"])
    if not totals["short"]:
        return log

    users_account, interactions_account = accounts(least)
    bad_rows.count(users_account, int(totals["short"]))
    bad_rows.count(interactions_account, int(totals["interactions"]))
    return log.semi_join(users.filter(~short), "user_id")


def accounts(least: int) -> tuple[str, str]:
    """The names of the counts of short histories: users, and their interactions."""
    return (
        f"users of fewer than {least:,} interactions",
        f"interactions of users of fewer than {least:,}",
    )


def none_is_long(users: int, least: int, longest: int) -> UserError:
    return UserError(
        f"no user of {users:,} has {least:,} interactions, the longest history has {longest:,}:"
        f" give a smaller one, such as --option {OPTION}={max(1, longest // 4)}"
    )
