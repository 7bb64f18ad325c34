"""Several attention-weighted means of the items that each position has seen.

    A_tjk = e^{s_jk} / sum over items i seen at t of e^{s_ik}
    m_tk = sum over items j seen at t of A_tjk x_j

Shapes: N tokens, K means, d width, Q requested positions. `prefixes` explains the shapes within
blocks.
"""

import torch
from torch import Tensor

from torchrec_priors.ops.prefixes import blocks, in_order


def interest_attention_reference(
    score_NK: Tensor, x_Nd: Tensor, offsets_B1: Tensor, token_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, position by position. Same arguments and result as `interest_attention`."""
    means = []
    squares = []
    for token in token_Q.tolist():
        first = max(start for start in offsets_B1[:-1].tolist() if start <= token)
        weight_jK = torch.softmax(score_NK[first : token + 1], 0)
        means.append(weight_jK.T @ x_Nd[first : token + 1])
        squares.append((weight_jK**2).sum(0))

    if not means:
        interests = score_NK.shape[1]
        return x_Nd.new_zeros(0, interests, x_Nd.shape[1]), x_Nd.new_zeros(0, interests)
    return torch.stack(means), torch.stack(squares)


def interest_attention(
    score_NK: Tensor, x_Nd: Tensor, offsets_B1: Tensor, token_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the means for requested positions, computed in prefix blocks.

    Args:
        score_NK: s, the score of each token for each mean.
        x_Nd: x, the vector of each token.
        offsets_B1: int64 bounds of sequences. Sequences with requested positions are not empty.
        token_Q: int64 numbers of the requested positions, ascending.

    Returns:
        [Q, K, d] means, and [Q, K] sums of the squares of their weights A.
    """
    means = []
    squares = []
    places = []
    for block in blocks(offsets_B1, token_Q):
        hidden_b1RL = ~block.seen_bRL[:, None]
        score_bK1L = score_NK[block.token_bL].transpose(1, 2)[:, :, None]
        weight_bKRL = torch.softmax(score_bK1L.masked_fill(hidden_b1RL, -torch.inf), -1)

        mean_bKRd = weight_bKRL.flatten(1, 2) @ x_Nd[block.token_bL]
        mean_bKRd = mean_bKRd.view(*weight_bKRL.shape[:3], x_Nd.shape[1])
        square_bKR = (weight_bKRL**2).sum(-1)

        means.append(mean_bKRd.transpose(1, 2).flatten(0, 1)[block.row_Q])
        squares.append(square_bKR.transpose(1, 2).flatten(0, 1)[block.row_Q])
        places.append(block.place_Q)
    return in_order(means, places), in_order(squares, places)
