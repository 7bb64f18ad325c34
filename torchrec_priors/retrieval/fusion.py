"""How the scores of an item's eligible heads become one (paper 3.5 and A.1.3), tile by tile.

Scores are Eq. 3's s_k(i) or, calibrated, L_k(i) = log P(group k | user) + log P(i | group k, user).
An in-group softmax determines the scores of its head only up to a constant, so only calibrated
scores are on one scale. With H(i) the heads that may retrieve item i (and that this user may use):

    max                S(i) = max over k of s_k(i)
    mean               S(i) = mean over k of s_k(i)
    hierarchical       S(i) = mean over blocks of the max inside a block. A block is a group of the
                       levels that restrict no items (a segment of time) or, in additive
                       composition, a level
    inverse_variance   S(i) = sum of s_k(i) / v_k over sum of 1 / v_k, v_k the variance of a head's
                       loss in training

Calibrated means are means of probabilities: log of sum over k of exp(L_k(i)) / c(i). c(i) counts
the heads that estimate the same probability (`PriorTree.alternatives`): one for each label of the
item and each segment of time. Heads of different events are for outcomes that exclude each other,
whose probabilities add up in the plain mean; the other fusions treat them as estimates of one
probability, too.

Shapes: B users, K paths, T rows of a tile, R branches of the tree, p paths of one item set, n some
of the set's rows, c paths of one block.
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
    """A fusion over the paths of one tree.

    Attributes:
        kind: see above.
        calibrated: whether scores are log-probabilities.
        block_K: block of each path, for `hierarchical`.
        variance_K: v_k, for `inverse_variance`.
        branch_K: branch of each path, for calibrated scores; None if the tree has one branch.
    """

    kind: FusionKind = "max"
    calibrated: bool = False
    block_K: Tensor | None = None
    variance_K: Tensor | None = None
    branch_K: Tensor | None = None

    def accumulator(self, users: int, log_alternatives_RT: Tensor) -> "Accumulator":
        """For one tile, whose rows have log c(i) in each branch.

        `max` has a search of its own (`max_search`).
        """
        assert self.kind != "max"
        if self.kind == "hierarchical":
            return _Maxima(self, users, log_alternatives_RT)
        return _Means(self, users, log_alternatives_RT)


def blocks(tree: PriorTree) -> Tensor:
    """int64 [K]: block of each path, for `hierarchical`."""
    is_outer = [not (level.restricts_items or is_of_users(level)) for level in tree.levels]

    keys: list[tuple[int, ...]] = []
    for path in tree.paths:
        if tree.composition == "additive":
            keys.append(path.levels)
        else:
            pairs = zip(path.levels, path.groups, strict=True)
            keys.append(tuple(group for level, group in pairs if is_outer[level]))

    # Numbered in sorted order: the numbers do not depend on the order of the paths.
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    return torch.tensor([numbers[key] for key in keys])


class Accumulator(Protocol):
    """Takes the scores of a tile, item set after item set."""

    def add(self, columns_n: Tensor | slice, score_Bpn: Tensor, path_Bp: Tensor) -> None:
        """Adds scores of some items of one item set.

        Args:
            columns_n: rows of the tile, ascending.
            score_Bpn: scores of paths of the set; -inf if a user may not use a path.
            path_Bp: which paths they are, each user's ascending.
        """
        ...

    def result(self) -> tuple[Tensor, Tensor]:
        """Fused scores [B, T], -inf for rows without a head, and the path that contributed most
        [B, T] (int32)."""
        ...


class _Maxima:
    """The largest score of each block, then the mean over blocks."""

    def __init__(self, fusion: Fusion, users: int, log_alternatives_RT: Tensor) -> None:
        assert fusion.block_K is not None
        self.calibrated = fusion.calibrated
        self.block_K = fusion.block_K

        blocks = int(self.block_K.max()) + 1
        # -inf marks a block without a head for a row and user.
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

            # A column holds paths of several blocks only if users have paths of their own.
            outside_Bc = ~inside_Bp[:, chosen]
            if outside_Bc.any():
                score_Bcn = score_Bcn.masked_fill(outside_Bc[..., None], -torch.inf)
            self._keep(block, columns_n, score_Bcn, path_Bp[:, chosen])

    def _keep(
        self, block: int, columns_n: Tensor | slice, score_Bcn: Tensor, path_Bc: Tensor
    ) -> None:
        """Raises a block's maxima; of equal scores the earlier one stays."""
        # One path needs no maximum, which saves a copy of the scores.
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

        # The mean over the blocks that have a head for the row.
        eligible = ~torch.isneginf(self.best)
        count = eligible.sum(0)
        if self.calibrated:
            fused = torch.logsumexp(self.best.double(), 0) - count.double().log()
        else:
            fused = self.best.double().masked_fill(~eligible, 0.0).sum(0) / count
        fused = fused.float().masked_fill(count == 0, -torch.inf)

        # The path of the best block; of equal ones, of the first.
        best = self.best[0]
        path = self.path[0]
        for block in range(1, len(self.best)):
            better = self.best[block] > best
            best = torch.where(better, self.best[block], best)
            path = torch.where(better, self.path[block], path)
        return fused, path


class _Means:
    """Weighted means, summed in double precision: they do not depend on the order of additions."""

    def __init__(self, fusion: Fusion, users: int, log_alternatives_RT: Tensor) -> None:
        self.calibrated = fusion.calibrated
        self.branch_K = fusion.branch_K
        self.log_alternatives_RT = log_alternatives_RT.double()
        device = log_alternatives_RT.device

        self.weight_K = None
        if fusion.kind == "inverse_variance":
            assert fusion.variance_K is not None
            # A head whose loss never varied would get all the weight.
            self.weight_K = fusion.variance_K.double().clamp(min=1e-12).reciprocal().to(device)

        # Calibrated sums are of probabilities, kept as logarithms: an empty one is -inf.
        shape = (users, log_alternatives_RT.shape[1])
        nothing = -torch.inf if self.calibrated else 0.0
        self.sum = torch.full(shape, nothing, dtype=torch.float64, device=device)
        self.weight = torch.zeros(shape, dtype=torch.float64, device=device)
        self.best = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self.path = torch.zeros(shape, dtype=torch.int32, device=device)

    def add(self, columns_n: Tensor | slice, score_Bpn: Tensor, path_Bp: Tensor) -> None:
        # Closed paths weigh nothing.
        score = score_Bpn.double()
        weight_Bpn = (~torch.isneginf(score)).double()
        if self.weight_K is not None:
            weight_Bpn = weight_Bpn * self.weight_K[path_Bp][..., None]

        if self.calibrated:
            # Divided by c(i): heads that estimate the same probability count as one together.
            branch_Bp = torch.zeros_like(path_Bp)
            if self.branch_K is not None:
                branch_Bp = self.branch_K.to(path_Bp.device)[path_Bp]
            weight_Bpn = weight_Bpn * torch.exp(-self.log_alternatives_RT[:, columns_n])[branch_Bp]
            part = score + weight_Bpn.log()
            self.sum[:, columns_n] = torch.logaddexp(
                self.sum[:, columns_n], torch.logsumexp(part, 1)
            )
        else:
            # Closed paths have a score of -inf, which a weight of 0 would turn into NaN.
            part = score
            self.sum[:, columns_n] += (score.masked_fill(weight_Bpn == 0, 0.0) * weight_Bpn).sum(1)
        self.weight[:, columns_n] += weight_Bpn.sum(1)

        # The path that contributed most; of equal ones, the earlier one stays.
        value, winner = part.max(1)
        better = value > self.best[:, columns_n]
        path = path_Bp.gather(1, winner).int()
        self.best[:, columns_n] = torch.where(better, value, self.best[:, columns_n])
        self.path[:, columns_n] = torch.where(better, path, self.path[:, columns_n])

    def result(self) -> tuple[Tensor, Tensor]:
        if not self.calibrated:
            fused = self.sum / self.weight
        elif self.weight_K is None:
            # `add` has divided by c(i) already, and different events add up.
            fused = self.sum
        else:
            fused = self.sum - self.weight.log()
        return fused.float().masked_fill(self.weight == 0, -torch.inf), self.path


def fuse_reference(score_K: Tensor, alternatives_K: Tensor, fusion: Fusion) -> tuple[float, int]:
    """The definition for one user and item: the fused score, and the path that contributed most.

    Args:
        score_K: scores of all paths, -inf if a path may not retrieve the item.
        alternatives_K: c(i) of the item in each path's item set.
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
