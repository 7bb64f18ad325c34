"""Finds the positives of a batch on a GPU with one read by the host.

`find_positives` in `loss.py` asks for the size of a result after each of its steps, and a GPU's
host would wait each time. Here every token has a place for each offset, and every target a place
for each group that a target can have at a level. Places without a positive are sorted to the end.
Then the host reads the number of positives and the number of queries together, and the places at
the end are cut off.

Shapes: N tokens, T offsets, X items of extended sequences, M positives, P queries; within a tree,
G groups of a target at a level, C places of a target.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from torchrec_priors.priors.prior import Targets
from torchrec_priors.priors.tree import PriorTree


@runtime_checkable
class Padded(Protocol):
    """A prior that can assign targets to groups without a size that depends on the targets."""

    def padded_members(self, targets: Targets) -> Tensor:
        """Returns the groups of each target, int64 [M, G], padded with -1; see `Prior.members`."""
        ...


def can_pad(tree: PriorTree) -> bool:
    """Returns whether all levels of a tree have `padded_members`. Custom priors may have none."""
    return all(isinstance(level, Padded) for level in tree.levels)


def padded_positives(
    tree: PriorTree,
    item_X: Tensor,
    context_N: Tensor,
    end_N: Tensor,
    horizon: int,
    *,
    event_X: Tensor | None = None,
    user_N: Tensor | None = None,
    trained_X: Tensor | None = None,
) -> dict[str, Tensor | None]:
    """Returns the fields of `Positives`; same arguments as `find_positives`.

    All levels of the tree must have `padded_members`.
    """
    tokens = len(context_N)
    paths = len(tree.item_set_K)
    device = item_X.device
    offset_T = torch.arange(1, horizon + 1, device=device)
    place_NT = context_N[:, None] + offset_T
    exists_NT = place_NT < end_N[:, None]
    # A place after the end of the last sequence is not in `item_X`.
    source_NT = place_NT.clamp_(max=max(len(item_X) - 1, 0))
    source = source_NT.flatten()

    path = assign_padded(
        tree,
        Targets(
            item_M=item_X[source],
            offset_M=offset_T.expand(tokens, -1).flatten(),
            event_M=None if event_X is None else event_X[source],
            user_M=None if user_N is None else user_N[:, None].expand(-1, horizon).flatten(),
        ),
    )
    places = path.shape[1]

    # Positives are sorted by path, then by token. The last keys are those without a positive.
    none = paths * max(tokens, 1)
    token_N = torch.arange(tokens, device=device)
    key_NTC = path.view(tokens, horizon, places) * tokens + token_N[:, None, None]
    exists_NTC = exists_NT[:, :, None] & (path >= 0).view(tokens, horizon, places)
    key, order = torch.where(exists_NTC, key_NTC, none).flatten().sort(stable=True)

    is_positive = key < none
    is_first = is_positive.clone()
    is_first[1:] &= key[1:] != key[:-1]
    query = is_first.cumsum(0) - 1
    positives, queries = torch.stack([is_positive.sum(), is_first.sum()]).tolist()

    key_M = key[:positives]
    query_M = query[:positives]
    target_M = order[:positives] // places
    source_M = source[target_M]
    key_P = key_M[torch.searchsorted(query_M, torch.arange(queries, device=device))]

    target_T = exists_NT.sum(0)
    trained_T = target_T
    trained_M = None
    if trained_X is not None:
        trained_T = (exists_NT & trained_X[source_NT]).sum(0)
        trained_M = trained_X[source_M]
    return {
        "token_P": key_P % max(tokens, 1),
        "path_P": key_P // max(tokens, 1),
        "query_M": query_M,
        "source_M": source_M,
        "offset_M": target_M % horizon + 1,
        "path_M": key_M // max(tokens, 1),
        "reach_N": exists_NT.sum(1),
        "trained_T": trained_T,
        "trained_M": trained_M,
        "target_T": target_T,
    }


def assign_padded(tree: PriorTree, targets: Targets) -> Tensor:
    """Returns the paths for which each target is a positive, int64 [M, C], padded with -1.

    Same result as `PriorTree.assign`, up to order.
    """
    parts = []
    for number, branch in enumerate(tree.branches):
        code_C = tree.get_buffer(f"code_{number}")
        path_C = tree.get_buffer(f"path_{number}")
        if not len(code_C):  # no item is in a group of this branch, so it has no paths
            continue

        code = _codes(branch.levels, branch.sizes, targets)
        # The code of a combination that was dropped is not in `code_C`, and neither is -1.
        position = torch.searchsorted(code_C, code).clamp_(max=len(code_C) - 1)
        has_head = code_C[position] == code
        parts.append(torch.where(has_head, path_C[position], -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _codes(levels: list[Any], sizes: list[int], targets: Targets) -> Tensor:
    """Returns the codes of each target's combinations of groups, [M, C], padded with -1."""
    code = targets.item_M.new_zeros(len(targets.item_M), 1)
    for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        group = level.padded_members(targets)
        if number == 0:
            code = group
            continue
        missing = (code < 0)[:, :, None] | (group < 0)[:, None, :]
        combined = code[:, :, None] * size + group[:, None, :]
        code = combined.masked_fill_(missing, -1).flatten(1)
    return code
