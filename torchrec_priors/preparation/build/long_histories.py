"""Keeps only users with a minimum number of interactions, as published experiments do."""

import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.bad_rows import BadRows

OPTION = "min_history"


def at_least(log: ir.Table, least: int, engine: Engine, bad_rows: BadRows) -> ir.Table:
    """Returns the interactions of users who have at least `least` of them.

    All others are counted as dropped.

    A corpus file calls this early, so that no more work is done for users with short histories.
    It counts repeated interactions, too, so more users may be left out later because of
    `Corpus.min_history`. If the engine is set to keep short histories, nothing is left out here.

    Args:
        log: a table with one row per interaction and a column `user_id`.
        least: the minimum number of interactions.

    Raises:
        UserError: `least` is below 1, or no user has this number of interactions.
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

    # An empty log is reported later, together with the number of dropped rows.
    if totals["users"] and totals["short"] == totals["users"]:
        raise none_is_long(totals["users"], least, totals["longest"])
    if not totals["short"]:
        return log

    users_account, interactions_account = accounts(least)
    bad_rows.count(users_account, int(totals["short"]))
    bad_rows.count(interactions_account, int(totals["interactions"]))
    return log.semi_join(users.filter(~short), "user_id")


def accounts(least: int) -> tuple[str, str]:
    """Returns the names of two counts: users with short histories, and their interactions."""
    return (
        f"users of fewer than {least:,} interactions",
        f"interactions of users of fewer than {least:,}",
    )


def none_is_long(users: int, least: int, longest: int) -> UserError:
    return UserError(
        f"no user of {users:,} has {least:,} interactions, the longest history has {longest:,}:"
        f" give a smaller one, such as --option {OPTION}={max(1, longest // 4)}"
    )
