"""Where in the data a step went wrong, for the message that ends a run whose loss or gradient no longer makes sense."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from torchrec_priors.errors import DivergedError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.step import AbortedStepError

_NAMED = 3  # users of each rank, and items


@dataclass(frozen=True)
class _Share:
    """What a rank knows of its part of the batch.

    Attributes:
        windows: in it.
        wrong: how many of them have a gradient that is not finite.
        users: original ids of the first of these; without any, of those with the largest gradients.
        items: original ids of the first items of it whose vectors are not finite.
    """

    windows: int
    wrong: int
    users: list[str]
    items: list[str]


def diverged(
    undone: AbortedStepError,
    data: PreparedData,
    ranks: Ranks,
    max_loss: float,
    checkpoint: str | None,
) -> DivergedError:
    """The error to end with, the same on every rank; every rank must call it.

    Args:
        max_loss: the largest loss that was allowed.
        checkpoint: the newest.
    """
    shares: list[_Share] = [_share(undone, data)]
    if ranks.world > 1:
        told: list[_Share | None] = [None] * ranks.world
        dist.all_gather_object(told, shares[0], group=ranks.side)
        shares = [share for share in told if share is not None]
    return DivergedError(_message(undone, shares, max_loss, checkpoint))


def _share(undone: AbortedStepError, data: PreparedData) -> _Share:
    batch = undone.batch
    looked_up = undone.looked_up
    users_B = torch.cat([part.user_N[part.offsets_B1[:-1]] for part in batch.parts]).cpu()
    windows = len(users_B)
    window_X = torch.repeat_interleave(torch.arange(windows), batch.ids.lengths()[:-1].cpu())
    norm_B = torch.zeros(windows).index_add_(
        0, window_X, looked_up.gradients()[0].square().sum(1).cpu()
    )
    wrong_B = ~norm_B.isfinite()
    chosen_B = wrong_B.nonzero().flatten() if wrong_B.any() else norm_B.argsort(descending=True)
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
    group = next(
        group
        for group in data.row_groups
        if group.first_user <= number < group.first_user + group.users
    )
    return str(data.user_ids(group)[number - group.first_user].as_py())


def _items(data: PreparedData, rows: list[int]) -> list[str]:
    return [
        str(one)
        for one in data.catalogue(["item_id"])["item_id"].take(np.array(rows, np.int64)).to_pylist()
    ]


def _message(
    undone: AbortedStepError, shares: list[_Share], max_loss: float, checkpoint: str | None
) -> str:
    loss = f"{undone.loss:.4g}"
    norm = f"{undone.gradient_norm:.4g}"
    if undone.finite:
        what = f"the loss is {loss} (more than {max_loss:.4g}: training.max_loss), the gradient norm {norm}"
    else:
        what = f"the loss is {loss}, the gradient norm {norm}"
    kept = "no checkpoint yet" if checkpoint is None else f"last checkpoint {checkpoint}"
    return (
        f"training diverged in step {undone.batch.step + 1}: {what}; {_where(undone.finite, shares)}; nothing was "
        f"changed, {kept}: lower the learning rates, in a new --run"
    )


def _where(finite: bool, shares: list[_Share]) -> str:
    """
    >>> shares = [_Share(8, 0, ["17", "4"], []), _Share(8, 2, ["5", "60"], ["311"]), _Share(8, 5, ["9", "7", "8"], [])]
    >>> _where(False, shares)
    'gradients are not finite for users 5, 60 (rank 1), 9, 7, 8, ... (rank 2); item vectors that are not finite: 311'
    >>> _where(True, shares[:1])
    'gradients are largest for users 17, 4 (rank 0)'
    >>> _where(False, [_Share(8, 8, ["5"], []), _Share(8, 8, ["6"], [])])
    'gradients are not finite for all 16 windows of the batch'
    """
    windows = sum(share.windows for share in shares)
    wrong = sum(share.wrong for share in shares)
    named = [
        f"{', '.join(share.users)}{', ...' if share.wrong > len(share.users) else ''} (rank {rank})"
        for rank, share in enumerate(shares)
        if share.users and (share.wrong or not wrong)
    ]
    if wrong and wrong == windows:
        said = f"gradients are not finite for all {windows} windows of the batch"
    elif wrong:
        said = f"gradients are not finite for users {', '.join(named)}"
    else:
        said = (
            f"gradients are {'' if finite else 'finite and '}largest for users {', '.join(named)}"
        )
    items = [item for share in shares for item in share.items]
    return said + (
        f"; item vectors that are not finite: {', '.join(items[:_NAMED])}" if items else ""
    )
