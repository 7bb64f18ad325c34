"""Fuses the scores that an item gets from several heads (sections 3.5 and A.1.3 of the paper).

Each head has a path in the prior tree. A path is open to a user if it may be used for this user;
other paths are closed. A fusion uses the heads k that may retrieve item i and whose paths are open
to the user. s_k(i) is the score of head k (Eq. 3). The fused score is

    max                the maximum of s_k(i)
    mean               the mean of s_k(i)
    hierarchical       the maximum of s_k(i) in each block of heads, then the mean over blocks. In
                       an additive tree, the heads of one level are a block. In any other tree, two
                       heads are in the same block if their paths have the same groups at every
                       level that restricts neither items nor users: for example, all heads of one
                       segment of time are a block
    inverse_variance   sum of s_k(i) / v_k, divided by sum of 1 / v_k, where v_k is the variance of
                       head k's loss in training

An in-group softmax determines the scores of its head only up to a constant, so the scores of
different heads are not on one scale. Calibrated scores are on one scale, because they are
log-probabilities:

    L_k(i) = log P(group k | user) + log P(i | group k, user)

Here group k is the item set of head k, i.e. the items that it may retrieve. With calibrated scores,
fusions that take a mean take the mean of probabilities. `mean` is then the logarithm of

    sum over k of exp(L_k(i)) / c_k(i)

Each head that may retrieve item i estimates P(i | user). Dividing by c_k(i) turns the sum of their
estimates into a mean: c_k(i) is the number of such heads in the branch of head k, times the number
of branches with such heads (`PriorTree.alternatives`). A branch contains the paths that combine the
same levels (`priors/branch.py`): an additive tree has one for each level, and any other tree has
only one. Heads of different events are an exception. Each of them estimates the probability of item
i with its own event, and `mean` adds these probabilities up; the other fusions treat them like
estimates of P(i | user).

A tile contains the items whose scores are in memory at the same time (`group_index.py`).

Shapes: B users, K paths, T items of a tile, R branches, p paths of one item
set, n some items of the set, c paths of one block.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torchrec_priors.priors.prior import is_of_users
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.evaluation import FusionKind


@dataclass(frozen=True)
class Fusion:
    """The kind of fusion, and what it needs to know about the paths of the tree.

    Attributes:
        kind: one of the fusions described at the top of this module.
        calibrated: whether scores are calibrated, i.e. log-probabilities.
        block_K: the index of each path's block; required by `hierarchical`.
        variance_K: v_k of each path; required by `inverse_variance`.
        branch_K: the index of each path's branch, for calibrated scores; None if the tree has one
            branch.
    """

    kind: FusionKind = "max"
    calibrated: bool = False
    block_K: Tensor | None = None
    variance_K: Tensor | None = None
    branch_K: Tensor | None = None

    def accumulator(self, users: int, log_alternatives_RT: Tensor) -> "Accumulator":
        """Makes the accumulator for the scores of one tile.

        `max` has none, because `max_search.py` does not keep the scores of all items.

        Args:
            users: the number of users.
            log_alternatives_RT: log c_k(i) of each item of the tile, in each branch.
        """
        assert self.kind != "max"
        if self.kind == "hierarchical":
            return _Maxima(self, users, log_alternatives_RT)
        return _Means(self, users, log_alternatives_RT)


def blocks(tree: PriorTree) -> Tensor:
    """Returns int64 [K]: the index of each path's block, for `hierarchical`."""
    forms_blocks = [not (level.restricts_items or is_of_users(level)) for level in tree.levels]

    keys: list[tuple[int, ...]] = []
    for path in tree.paths:
        if tree.composition == "additive":
            keys.append(path.levels)
        else:
            pairs = zip(path.levels, path.groups, strict=True)
            keys.append(tuple(group for level, group in pairs if forms_blocks[level]))

    # Blocks are numbered in the order of their keys, which is independent of the order of paths.
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    return torch.tensor([numbers[key] for key in keys])


class Accumulator(Protocol):
    """Collects the scores of a tile, for one item set after another, and fuses them."""

    def add(self, columns_n: Tensor | slice, score_Bpn: Tensor, path_Bp: Tensor) -> None:
        """Adds the scores of some items of one item set.

        Args:
            columns_n: the positions of the items in the tile, ascending.
            score_Bpn: the scores that paths of the set give the items; -inf for closed paths.
            path_Bp: the indices of these paths, ascending for each user.
        """
        ...

    def result(self) -> tuple[Tensor, Tensor]:
        """Returns the fused scores and the paths that contributed most to them (int32).

        Both are [B, T]. The score is -inf if no open path of the user may retrieve the item.
        """
        ...


class _Maxima:
    """Hierarchical fusion: the maximum of each block, then the mean over blocks."""

    def __init__(self, fusion: Fusion, users: int, log_alternatives_RT: Tensor) -> None:
        assert fusion.block_K is not None
        self.calibrated = fusion.calibrated
        self.block_K = fusion.block_K

        blocks = int(self.block_K.max()) + 1
        # -inf stands for a block without an open path that may retrieve the item.
        shape = (blocks, users, log_alternatives_RT.shape[1])
        device = log_alternatives_RT.device
        self.best = torch.full(shape, -torch.inf, device=device)
        self.path = torch.zeros(shape, dtype=torch.int32, device=device)

    def add(self, columns_n: Tensor | slice, score_Bpn: Tensor, path_Bp: Tensor) -> None:
        block_Bp = self.block_K.to(path_Bp.device)[path_Bp]
        for block in block_Bp.unique().tolist():
            inside_Bp = block_Bp == block
            chosen = torch.nonzero(inside_Bp.any(0))[:, 0]
            score_Bcn = score_Bpn[:, chosen]

            # A column of `path_Bp` has paths of several blocks only if users have different paths.
            outside_Bc = ~inside_Bp[:, chosen]
            if outside_Bc.any():
                score_Bcn = score_Bcn.masked_fill(outside_Bc[..., None], -torch.inf)
            self._keep(block, columns_n, score_Bcn, path_Bp[:, chosen])

    def _keep(
        self, block: int, columns_n: Tensor | slice, score_Bcn: Tensor, path_Bc: Tensor
    ) -> None:
        """Updates the maxima of a block. Of paths with equal scores, the first one is kept.

        Args:
            block: the index of the block.
            columns_n: the positions of the items in the tile.
            score_Bcn: their scores from paths of the block; -inf for closed paths.
            path_Bc: the indices of these paths.
        """
        # With a single path there is no maximum to compute, which saves a copy of the scores.
        if path_Bc.shape[1] == 1:
            value_Bn = score_Bcn[:, 0]
            path = path_Bc.int()
        else:
            value_Bn, winner_Bn = score_Bcn.max(1)
            path = path_Bc.gather(1, winner_Bn).int()

        best_Bn = self.best[block][:, columns_n]
        better = value_Bn > best_Bn
        self.best[block][:, columns_n] = torch.where(better, value_Bn, best_Bn)
        self.path[block][:, columns_n] = torch.where(better, path, self.path[block][:, columns_n])

    def result(self) -> tuple[Tensor, Tensor]:
        if len(self.best) == 1:
            return self.best[0], self.path[0]

        # The mean is over the blocks with an open path that may retrieve the item.
        eligible = ~torch.isneginf(self.best)
        count = eligible.sum(0)
        if self.calibrated:
            fused = torch.logsumexp(self.best.double(), 0) - count.double().log()
        else:
            fused = self.best.double().masked_fill(~eligible, 0.0).sum(0) / count
        fused = fused.float().masked_fill(count == 0, -torch.inf)

        # The returned path is that of the best block. If blocks are equally good, it is that of the
        # first one.
        best = self.best[0]
        path = self.path[0]
        for block in range(1, len(self.best)):
            better = self.best[block] > best
            best = torch.where(better, self.best[block], best)
            path = torch.where(better, self.path[block], path)
        return fused, path


class _Means:
    """The fusions `mean` and `inverse_variance`: weighted means.

    Sums are in double precision, so after rounding to float32 they hardly ever depend on the order
    of additions.
    """

    def __init__(self, fusion: Fusion, users: int, log_alternatives_RT: Tensor) -> None:
        self.calibrated = fusion.calibrated
        self.branch_K = fusion.branch_K
        self.log_alternatives_RT = log_alternatives_RT.double()
        device = log_alternatives_RT.device

        self.weight_K = None
        if fusion.kind == "inverse_variance":
            assert fusion.variance_K is not None
            # Without a lower bound, a head with a constant loss (variance 0) would get all the
            # weight.
            self.weight_K = fusion.variance_K.double().clamp(min=1e-12).reciprocal().to(device)

        # With calibrated scores, `sum` is the logarithm of a sum of probabilities. At first it is
        # log 0 = -inf.
        shape = (users, log_alternatives_RT.shape[1])
        empty_sum = -torch.inf if self.calibrated else 0.0
        self.sum = torch.full(shape, empty_sum, dtype=torch.float64, device=device)
        self.weight = torch.zeros(shape, dtype=torch.float64, device=device)
        self.best = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self.path = torch.zeros(shape, dtype=torch.int32, device=device)

    def add(self, columns_n: Tensor | slice, score_Bpn: Tensor, path_Bp: Tensor) -> None:
        # Closed paths have weight 0.
        score = score_Bpn.double()
        weight_Bpn = (~torch.isneginf(score)).double()
        if self.weight_K is not None:
            weight_Bpn = weight_Bpn * self.weight_K[path_Bp][..., None]

        if self.calibrated:
            # Weights are divided by c_k(i). With `mean`, the weights of heads that estimate the
            # same probability then add up to 1.
            branch_Bp = torch.zeros_like(path_Bp)
            if self.branch_K is not None:
                branch_Bp = self.branch_K.to(path_Bp.device)[path_Bp]
            weight_Bpn = weight_Bpn * torch.exp(-self.log_alternatives_RT[:, columns_n])[branch_Bp]
            contribution = score + weight_Bpn.log()
            self.sum[:, columns_n] = torch.logaddexp(
                self.sum[:, columns_n], torch.logsumexp(contribution, 1)
            )
        else:
            # The scores of closed paths are replaced by 0, because -inf times a weight of 0 is NaN.
            contribution = score
            self.sum[:, columns_n] += (score.masked_fill(weight_Bpn == 0, 0.0) * weight_Bpn).sum(1)
        self.weight[:, columns_n] += weight_Bpn.sum(1)

        # If contributions are equal, the path that was added first is kept.
        value, winner = contribution.max(1)
        better = value > self.best[:, columns_n]
        path = path_Bp.gather(1, winner).int()
        self.best[:, columns_n] = torch.where(better, value, self.best[:, columns_n])
        self.path[:, columns_n] = torch.where(better, path, self.path[:, columns_n])

    def result(self) -> tuple[Tensor, Tensor]:
        if not self.calibrated:
            fused = self.sum / self.weight
        elif self.weight_K is None:
            # `add` has already divided by c_k(i), so the sum is not divided by the weights. (If
            # there are heads of different events, the weights add up to more than 1, because the
            # probabilities of events are added up.)
            fused = self.sum
        else:
            fused = self.sum - self.weight.log()
        return fused.float().masked_fill(self.weight == 0, -torch.inf), self.path


def fuse_reference(score_K: Tensor, alternatives_K: Tensor, fusion: Fusion) -> tuple[float, int]:
    """Fuses one item's scores for one user directly from the definition, as a reference for tests.

    Args:
        score_K: the scores of all paths; -inf if a path may not retrieve the item.
        alternatives_K: c_k(i) of the item, in the branch of each path.
        fusion: the kind of fusion, and what it needs.

    Returns:
        The fused score, and the path that contributed most.
    """
    eligible = torch.nonzero(~torch.isneginf(score_K))[:, 0].tolist()
    if not eligible:
        return -math.inf, 0

    score = {path: float(score_K[path]) for path in eligible}
    best = max(eligible, key=lambda path: score[path])
    if fusion.kind == "max":
        return score[best], best

    if fusion.kind == "hierarchical":
        assert fusion.block_K is not None
        blocks: dict[int, list[float]] = {}
        for path in eligible:
            blocks.setdefault(int(fusion.block_K[path]), []).append(score[path])
        tops = [max(block) for block in blocks.values()]
        if fusion.calibrated:
            return math.log(sum(math.exp(top) for top in tops) / len(tops)), best
        return sum(tops) / len(tops), best

    weight = dict.fromkeys(eligible, 1.0)
    if fusion.variance_K is not None:
        weight = {path: 1 / float(fusion.variance_K[path]) for path in eligible}
    if not fusion.calibrated:
        return sum(weight[path] * score[path] for path in eligible) / sum(weight.values()), best

    share = {path: weight[path] / float(alternatives_K[path]) for path in eligible}
    best = max(eligible, key=lambda path: score[path] + math.log(share[path]))
    total = sum(share[path] * math.exp(score[path]) for path in eligible)
    if fusion.variance_K is not None:
        total = total / sum(share.values())
    return math.log(total), best
