"""Dynamic routing sorts the items that each position has seen into a few capsules (Sabour et al.
2017, in the form of MIND and ComiRec).

    w_jk = softmax over k of b_jk,    z_k = sum over items j seen of w_jk x_jk
    u_k = squash(z_k),                b_jk += u_k . x_jk
    squash(z) = |z|^2 / (1 + |z|^2) * z / |z|

These steps are iterated, and the last iteration gives u. Each position is routed separately. All
positions start from the same first b, which depends only on an item's place in its window. As in
the authors' code, gradients flow through the sum and the squash of the last iteration, not through
b.

Shapes: N tokens, K capsules, d width, Q requested positions, L places in a window. `prefixes`
explains the shapes within blocks.
"""

import torch
from torch import Tensor

from torchrec_priors.ops.prefixes import Block, blocks, in_order

_TINY = 1e-9


def squash(z: Tensor) -> Tensor:
    """Returns vectors with the same directions and with lengths between 0 and 1."""
    square = (z * z).sum(-1, keepdim=True)
    return z * (square / (1 + square) / torch.sqrt(square + _TINY))


def dynamic_routing_reference(
    x_NKd: Tensor,
    first_LK: Tensor,
    offsets_B1: Tensor,
    token_Q: Tensor,
    iterations: int,
    open_QK: Tensor,
) -> Tensor:
    """The definition, position by position. Same arguments and result as `dynamic_routing`."""
    capsules = []
    for token, open_K in zip(token_Q.tolist(), open_QK, strict=True):
        start = max(start for start in offsets_B1[:-1].tolist() if start <= token)
        x_jKd = x_NKd[start : token + 1].expand(-1, first_LK.shape[1], -1)
        b_jK = first_LK[: token + 1 - start]
        for _ in range(iterations):
            w_jK = torch.softmax(b_jK.masked_fill(~open_K, -torch.inf), 1)
            u_Kd = squash(torch.einsum("jk,jkd->kd", w_jK, x_jKd))
            b_jK = b_jK + torch.einsum("kd,jkd->jk", u_Kd, x_jKd).detach()
        capsules.append(u_Kd)

    if not capsules:
        return x_NKd.new_zeros(0, first_LK.shape[1], x_NKd.shape[2])
    return torch.stack(capsules)


def dynamic_routing(
    x_NKd: Tensor,
    first_LK: Tensor,
    offsets_B1: Tensor,
    token_Q: Tensor,
    iterations: int,
    open_QK: Tensor,
) -> Tensor:
    """Returns the capsules of requested positions, computed in prefix blocks.

    Args:
        x_NKd: each item's vector for each capsule; [N, 1, d] if it is the same for all capsules.
        first_LK: the first b of each place in a sequence.
        offsets_B1: int64 bounds of sequences.
        token_Q: int64 numbers of the requested positions, ascending.
        iterations: number of iterations, at least 1.
        open_QK: bool, whether a position routes to a capsule; each position routes to at least one.

    Returns:
        [Q, K, d] capsules; those that are not open are zero.
    """
    capsules = []
    places = []
    for block in blocks(offsets_B1, token_Q):
        x_bKLd = x_NKd[block.token_bL].transpose(1, 2)
        first_KL = first_LK[: block.token_bL.shape[1]].T
        u_bRKd = _route(x_bKLd, first_KL, block, iterations, open_QK)
        capsules.append(u_bRKd.flatten(0, 1)[block.row_Q])
        places.append(block.place_Q)
    return in_order(capsules, places)


def _route(
    x_bKLd: Tensor, first_KL: Tensor, block: Block, iterations: int, open_QK: Tensor
) -> Tensor:
    """Returns the capsules of a block, [b, R, K, d]."""
    # Rows that are only padding route to all capsules: a softmax over no capsule would be NaN.
    capsules = open_QK.shape[1]
    rows = block.position_bR.shape
    open_rows = torch.ones(rows.numel(), capsules, dtype=torch.bool, device=open_QK.device)
    open_rows[block.row_Q] = open_QK[block.place_Q]
    shut_bKR1 = ~open_rows.view(*rows, capsules).transpose(1, 2)[..., None]
    unseen_b1RL = ~block.seen_bRL[:, None]

    # Gradients go through the last iteration only.
    b_bKRL = first_KL[:, None].expand(rows[0], -1, rows[1], -1)
    fixed_bKLd = x_bKLd.detach()
    for left in reversed(range(iterations)):
        w_bKRL = torch.softmax(b_bKRL.masked_fill(shut_bKR1, -torch.inf), 1)
        w_bKRL = w_bKRL.masked_fill(unseen_b1RL, 0.0)
        u_bKRd = squash(_over_items(w_bKRL, x_bKLd if left == 0 else fixed_bKLd))
        if left:
            b_bKRL = b_bKRL + _against_items(u_bKRd, fixed_bKLd)
    return u_bKRd.transpose(1, 2)


def _over_items(w_bKRL: Tensor, x_bKLd: Tensor) -> Tensor:
    """Returns the weighted sums over items, [b, K, R, d]."""
    # If all capsules have the same x, one product serves all of them.
    if x_bKLd.shape[1] > 1:
        return w_bKRL @ x_bKLd
    b, capsules, rows, _ = w_bKRL.shape
    return (w_bKRL.flatten(1, 2) @ x_bKLd[:, 0]).view(b, capsules, rows, x_bKLd.shape[3])


def _against_items(u_bKRd: Tensor, x_bKLd: Tensor) -> Tensor:
    """Returns the products of capsules and items, [b, K, R, L]."""
    if x_bKLd.shape[1] > 1:
        return u_bKRd @ x_bKLd.transpose(2, 3)
    b, capsules, rows, _ = u_bKRd.shape
    products = u_bKRd.flatten(1, 2) @ x_bKLd[:, 0].transpose(1, 2)
    return products.view(b, capsules, rows, x_bKLd.shape[2])
