"""Items that a model has no row for are left out of windows and histories, as if nobody had met them."""

from collections.abc import Mapping

import numpy as np

from torchrec_priors.data.histories import Histories
from torchrec_priors.data.windows import Windows
from torchrec_priors.prepared.data_set import Columns


def leave_out(windows: Windows, has_row_I: np.ndarray) -> Windows:
    """Windows without items that are not known; one whose context would be empty goes as a whole."""
    kept_X = has_row_I[windows.items]
    if kept_X.all():
        return windows
    window_X = np.repeat(np.arange(len(windows.lengths)), windows.lengths)
    first_X = np.repeat(np.cumsum(windows.lengths) - windows.lengths, windows.lengths)
    in_context_X = np.arange(len(window_X)) - first_X < windows.contexts[window_X]
    contexts = np.bincount(window_X[kept_X & in_context_X], minlength=len(windows.lengths))
    kept_X &= (contexts > 0)[window_X]
    lengths = np.bincount(window_X[kept_X], minlength=len(windows.lengths))
    there = contexts > 0
    return Windows(
        step=windows.step,
        items=windows.items[kept_X],
        lengths=lengths[there],
        contexts=contexts[there],
        numbers=windows.numbers[there],
        users=windows.users[there],
        columns={name: values[kept_X] for name, values in windows.columns.items()},
    )


def recent(
    users: Histories, has_row_I: np.ndarray, context: int
) -> tuple[np.ndarray, np.ndarray, Columns]:
    """The last `context` known items of whole histories: items and lengths, of which some may be 0, and columns."""
    user_X = np.repeat(np.arange(len(users)), users.lengths)
    kept_X = has_row_I[users.items]
    count = np.bincount(user_X[kept_X], minlength=len(users))
    after = (
        np.cumsum(count)[user_X] - np.cumsum(kept_X) if len(user_X) else kept_X
    )  # known items that come later
    kept_X &= after < context
    columns: Mapping[str, np.ndarray] = {
        name: values[kept_X] for name, values in users.columns.items()
    }
    return users.items[kept_X], np.minimum(count, context), columns
