"""Removes unknown items, which have no row in the model's table, from windows and histories."""

from dataclasses import replace

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.data.windows import Windows


def leave_out(windows: Windows, has_row_I: np.ndarray) -> Windows:
    """Returns windows without unknown items.

    A window is removed if its context has no known item.
    """
    kept_X = has_row_I[windows.items]
    if kept_X.all():
        return windows

    # For each item, its window, and whether it is in the context.
    window_X = np.repeat(np.arange(len(windows.lengths)), windows.lengths)
    first_X = np.repeat(np.cumsum(windows.lengths) - windows.lengths, windows.lengths)
    in_context_X = np.arange(len(window_X)) - first_X < windows.contexts[window_X]

    # A window without a context is removed together with its targets.
    contexts = np.bincount(window_X[kept_X & in_context_X], minlength=len(windows.lengths))
    kept = contexts > 0
    kept_X &= kept[window_X]
    lengths = np.bincount(window_X[kept_X], minlength=len(windows.lengths))

    return Windows(
        step=windows.step,
        items=windows.items[kept_X],
        lengths=lengths[kept],
        contexts=contexts[kept],
        numbers=windows.numbers[kept],
        users=windows.users[kept],
        columns={name: values[kept_X] for name, values in windows.columns.items()},
    )


def recent(users: Histories, has_row_I: np.ndarray, context: int) -> Histories:
    """Returns the users with their last known items, at most `context` of them, in `items`.

    Args:
        users: the users, with whole histories in `items`.
        has_row_I: bool, whether an item has a row.
        context: the number of items to keep.

    Returns:
        The users; a length may be 0. `columns` follow `items`; everything else is unchanged.
    """
    # `count` is the number of known items of each user.
    user_X = np.repeat(np.arange(len(users)), users.lengths)
    kept_X = has_row_I[users.items]
    count = np.bincount(user_X[kept_X], minlength=len(users))

    # An item is kept if fewer than `context` known items follow.
    if len(user_X):
        known_after_X = np.cumsum(count)[user_X] - np.cumsum(kept_X)
        kept_X &= known_after_X < context

    return replace(
        users,
        items=users.items[kept_X],
        lengths=np.minimum(count, context),
        columns={name: values[kept_X] for name, values in users.columns.items()},
    )
