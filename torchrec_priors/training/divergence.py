"""Writes the error message of a run that has diverged: its loss is NaN, infinite or too large.

The message names the users and items of the step that went wrong. `step.py` detects that a step has
diverged, and `loop.py` ends the run with this message.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_priors.errors import DivergedError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.step import AbortedStepError

_NAMED = 3  # number of users of each rank, and of items, that the message names


@dataclass(frozen=True)
class _Share:
    """A rank's report on its part of the batch.

    Attributes:
        windows: the number of windows in this part.
        wrong: the number of windows with a gradient that is not finite.
        users: original ids of some users of these windows. If all gradients are finite, these are
            the users with the largest gradients.
        items: original ids of some items with vectors that are not finite.
    """

    windows: int
    wrong: int
    users: list[str]
    items: list[str]


def diverged(
    aborted: AbortedStepError,
    data: PreparedData,
    ranks: Ranks,
    max_loss: float,
    checkpoint: str | None,
) -> DivergedError:
    """Returns the error that the run ends with, the same on every rank. Every rank must call it.

    Args:
        aborted: the step that went wrong, with this rank's part of the batch.
        max_loss: the largest loss that was allowed.
        checkpoint: the newest checkpoint; None if there is no checkpoint yet.
    """
    # A rank only has the gradients of its own windows, so the ranks exchange their reports.
    shares: list[_Share] = [_share(aborted, data)]
    if ranks.world > 1:
        gathered: list[_Share | None] = [None] * ranks.world
        dist.all_gather_object(gathered, shares[0], group=ranks.side)
        shares = [share for share in gathered if share is not None]
    return DivergedError(_message(aborted, shares, max_loss, checkpoint))


def _share(aborted: AbortedStepError, data: PreparedData) -> _Share:
    """Finds the users and items that the message may name, in this rank's part of the batch.

    Shapes: B windows, X ids that were looked up for the windows, d width.
    """
    batch = aborted.batch
    looked_up = aborted.looked_up
    users_B = torch.cat([part.user_N[part.offsets_B1[:-1]] for part in batch.parts]).cpu()
    windows = len(users_B)

    # `norm_B` is the squared norm of the gradients of each window's vectors. The last row of `ids`
    # has the negatives, which belong to no window.
    window_X = torch.repeat_interleave(torch.arange(windows), batch.ids.lengths()[:-1].cpu())
    squared_X = looked_up.gradients()[0].square().sum(1).cpu()
    norm_B = torch.zeros(windows).index_add_(0, window_X, squared_X)

    wrong_B = ~norm_B.isfinite()
    chosen_B = wrong_B.nonzero().flatten()
    if len(chosen_B) == 0:
        chosen_B = norm_B.argsort(descending=True)

    # If vectors are not finite, the table was already damaged before this step.
    item_X = batch.item_X[~looked_up.vector_Xd.detach().isfinite().all(1)]
    return _Share(
        windows=windows,
        wrong=int(wrong_B.sum()),
        users=[_user(data, number) for number in _first_different(users_B[chosen_B])],
        items=_items(data, _first_different(item_X.cpu())),
    )


def _first_different(numbers: Tensor) -> list[int]:
    return list(dict.fromkeys(numbers.tolist()))[:_NAMED]


def _user(data: PreparedData, number: int) -> str:
    """Returns the original id of a user."""
    for group in data.row_groups:
        index = number - group.first_user
        if 0 <= index < group.users:
            return str(data.user_ids(group)[index].as_py())
    raise AssertionError(f"user {number} is in no row group")


def _items(data: PreparedData, rows: list[int]) -> list[str]:
    """Returns the original ids of items."""
    ids = data.catalogue(["item_id"])["item_id"].take(np.array(rows, np.int64))
    return [str(item) for item in ids.to_pylist()]


def _message(
    aborted: AbortedStepError, shares: list[_Share], max_loss: float, checkpoint: str | None
) -> str:
    # If everything is finite, the step was aborted because its loss is too large.
    loss = f"the loss is {aborted.loss:.4g}"
    if aborted.finite:
        loss += f" (more than {max_loss:.4g}: training.max_loss)"
    kept = "no checkpoint yet" if checkpoint is None else f"last checkpoint {checkpoint}"
    return (
        f"training diverged in step {aborted.batch.step + 1}: {loss}, "
        f"the gradient norm {aborted.gradient_norm:.4g}; {_where(aborted.finite, shares)}; "
        f"nothing was changed, {kept}: lower the learning rates, in a new --run"
    )


def _where(finite: bool, shares: list[_Share]) -> str:
    """Returns the part of the message that names users and items, from the reports of all ranks.

    >>> first = _Share(8, 0, ["17", "4"], [])
    >>> second = _Share(8, 2, ["5", "60"], ["311"])
    >>> third = _Share(8, 5, ["9", "7", "8"], [])
    >>> print(_where(False, [first, second, third]).replace("; ", ";\\n"))
    gradients are not finite for these users: 5, 60 (rank 1), 9, 7, 8, ... (rank 2);
    item vectors that are not finite: 311
    >>> _where(True, [first])
    'gradients are largest for these users: 17, 4 (rank 0)'
    >>> _where(False, [_Share(8, 8, ["5"], []), _Share(8, 8, ["6"], [])])
    'gradients are not finite for all 16 windows of the batch'
    """
    windows = sum(share.windows for share in shares)
    wrong = sum(share.wrong for share in shares)

    # If gradients of some windows are not finite, only those windows matter.
    named = []
    for rank, share in enumerate(shares):
        if share.users and (share.wrong or not wrong):
            more = ", ..." if share.wrong > len(share.users) else ""
            named.append(f"{', '.join(share.users)}{more} (rank {rank})")
    users = ", ".join(named)

    if wrong and wrong == windows:
        message = f"gradients are not finite for all {windows} windows of the batch"
    elif wrong:
        message = f"gradients are not finite for these users: {users}"
    elif finite:
        message = f"gradients are largest for these users: {users}"
    else:
        message = f"gradients are finite and largest for these users: {users}"

    items = [item for share in shares for item in share.items]
    if items:
        message += f"; item vectors that are not finite: {', '.join(items[:_NAMED])}"
    return message
