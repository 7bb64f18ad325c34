"""The repeat head: which item of the history will recur, and whether any will.

A target is a repeat if its item is in the context, up to the position n from which it is predicted.
Other targets are new. The model is

    P(i | user) = P(repeat | h_n) * (sum of a_nm over m <= n with item i)    if i is in the context
                  (1 - P(repeat | h_n)) * P(i | new, user)                   otherwise

    P(repeat | h_n) = sigmoid(w . h_n + b)
    a_n = softmax over m <= n of (W h_n) . x_m + r_{distance(n, m)} + t_{time(n) - time(m)}

Here h is the user state, x_m the encoder's input vector at position m, and r a learned number for
each power of two of the distance n - m. With `repeats.time_bias`, t is a learned number for each
power of two of the seconds between the two interactions; otherwise it is 0. The prior heads give
P(i | new, user). W, w, b, r and t are zero at first: given a repeat, the probability of an item is
then proportional to how often it occurs in the context (personal popularity).

The head needs no negatives and no lookups: a repeat competes with the other items of its history.

Shapes: N positions of histories, one history after another; d width; M targets; O occurrences of
targets in the context; within a chunk, n histories of T padded positions.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrec_priors.ops.next_items import next_items
from torchrec_priors.ops.occurrences import occurrences
from torchrec_priors.ops.padded_chunks import PaddedChunks
from torchrec_priors.ops.ranges import numbers
from torchrec_priors.ops.time_bias import TIME_BUCKETS, time_bucket

# Number of scores of pairs of positions that are computed at a time.
SCORES = 1 << 24


@dataclass(frozen=True)
class RepeatTargets:
    """The targets of some contexts, and where they occur in them.

    Attributes:
        position_M: the position from which each target is predicted.
        offset_M: how many items after the position the target is; the next item has offset 1.
        target_O: the target of each occurrence.
        position_O: the position of each occurrence.
        new_NT: bool, whether the target at an offset (from 1) exists and is new.
    """

    position_M: Tensor
    offset_M: Tensor
    target_O: Tensor
    position_O: Tensor
    new_NT: Tensor

    @property
    def repeat_M(self) -> Tensor:
        """Returns bool [M]: whether a target is a repeat."""
        repeat_M = torch.zeros_like(self.position_M, dtype=torch.bool)
        repeat_M[self.target_O] = True
        return repeat_M


def find_repeats(
    item_X: Tensor, context_N: Tensor, end_N: Tensor, offsets_B1: Tensor, horizon: int
) -> RepeatTargets:
    """Finds all targets of some contexts, and their occurrences.

    Args:
        item_X: row ids of the items of the extended sequences.
        context_N: index of each position in item_X.
        end_N: index in item_X at which the extended sequence of each position ends.
        offsets_B1: bounds of the contexts among the N positions.
        horizon: the largest offset of a target.
    """
    targets = next_items(context_N, end_N, horizon)
    position_M = targets.token_M
    item_M = item_X[targets.source_M]

    target_O, position_O = occurrences(item_X[context_N], offsets_B1, position_M, item_M)
    new_NT = targets.exists_NT.clone()
    new_NT[position_M[target_O], targets.offset_M[target_O] - 1] = False
    return RepeatTargets(position_M, targets.offset_M, target_O, position_O, new_NT)


class _Select(torch.autograd.Function):
    """Equals value_C[index]; its backward sums many gradients into a few numbers quickly."""

    @staticmethod
    def forward(ctx: Any, value_C: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = len(value_C)
        return value_C[index]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        sums_C = torch.bincount(index.flatten(), gradient.flatten(), minlength=ctx.size)
        return sums_C.to(gradient.dtype), None


class RepeatHead(nn.Module):
    """Parameters of the repeat head, and its probabilities."""

    def __init__(self, dim: int, context: int, time_bias: bool = False) -> None:
        """
        Args:
            dim: d.
            context: the largest number of items in a history.
            time_bias: whether scores depend on the time since an interaction.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, dim))
        self.recency = nn.Parameter(torch.zeros(context.bit_length() + 1))
        self.since = nn.Parameter(torch.zeros(TIME_BUCKETS)) if time_bias else None
        self.gate_weight = nn.Parameter(torch.zeros(dim))
        self.gate_bias = nn.Parameter(torch.zeros(()))

    def gate(self, state_Nd: Tensor) -> Tensor:
        """Returns the logits of P(repeat | h), [N]."""
        return state_Nd @ self.gate_weight + self.gate_bias

    def loss(
        self,
        state_Nd: Tensor,
        input_Nd: Tensor,
        offsets_B1: Tensor,
        targets: RepeatTargets,
        time_N: Tensor | None = None,
    ) -> Tensor:
        """Returns -log P(repeat, and which item) or -log P(new) for each target, [M].

        Args:
            state_Nd: user states of the contexts.
            input_Nd: the encoder's input vectors.
            offsets_B1: bounds of the contexts among the N positions.
            targets: see `find_repeats`.
            time_N: int64 milliseconds of the positions; only a head with a time bias needs them.
        """
        repeat_M = targets.repeat_M
        logit_M = self.gate(state_Nd)[targets.position_M]
        gate_loss_M = F.softplus(torch.where(repeat_M, -logit_M, logit_M))

        # The share of a target is the sum over its occurrences.
        query_Nd = state_Nd @ self.weight.T
        from_O = targets.position_M[targets.target_O]
        product_O = (query_Nd[from_O] * input_Nd[targets.position_O]).sum(1)
        score_O = product_O + self._bias(from_O, targets.position_O, time_N)
        log_share_O = score_O - self._log_sums(query_Nd, input_Nd, offsets_B1, time_N)[from_O]
        log_share_M = _log_sums_of_groups(log_share_O, targets.target_O, len(repeat_M))
        return gate_loss_M - torch.where(repeat_M, log_share_M, 0.0)

    def last_shares(
        self,
        state_Nd: Tensor,
        input_Nd: Tensor,
        offsets_B1: Tensor,
        time_N: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Computes the probabilities at the last position of each history.

        Args:
            state_Nd, input_Nd, offsets_B1, time_N: as for `loss`; no history is empty.

        Returns:
            The logits of P(repeat | h), [B]; and log a_nm of every position m, [N].
        """
        last_B = offsets_B1[1:] - 1
        history_N = numbers(offsets_B1.diff())
        position_N = torch.arange(len(input_Nd), device=input_Nd.device)

        query_Bd = state_Nd[last_B] @ self.weight.T
        product_N = (query_Bd[history_N] * input_Nd).sum(1)
        score_N = product_N + self._bias(last_B[history_N], position_N, time_N)
        log_sum_B = _log_sums_of_groups(score_N, history_N, len(last_B))
        return self.gate(state_Nd[last_B]), score_N - log_sum_B[history_N]

    def _recency(self, distance: Tensor) -> Tensor:
        """Returns r of distances: 0, 1-2, 3-6, 7-14 and so on have one number each."""
        bucket = torch.log2(distance.float() + 1.0).floor().long()
        return self.recency[bucket.clamp(0, len(self.recency) - 1)]

    def _bias(self, from_O: Tensor, position_O: Tensor, time_N: Tensor | None) -> Tensor:
        """Returns r + t of pairs of positions, [O]."""
        bias_O = self._recency(from_O - position_O)
        if self.since is None or time_N is None:
            return bias_O
        return bias_O + _Select.apply(self.since, time_bucket(time_N[from_O] - time_N[position_O]))

    def _log_sums(
        self, query_Nd: Tensor, input_Nd: Tensor, offsets_B1: Tensor, time_N: Tensor | None
    ) -> Tensor:
        """Returns log sum exp of the scores of all positions up to each position, [N]."""
        lengths = offsets_B1.diff().tolist()
        chunks = PaddedChunks.of(lengths, offsets_B1, lambda padded: max(1, SCORES // padded**2))
        if not chunks.chunks:
            # Every parameter needs a gradient on every rank.
            biases = self.recency.sum()
            if self.since is not None:
                biases = biases + self.since.sum()
            return (query_Nd * input_Nd).sum(1) + biases

        query_Pd = query_Nd[chunks.token_P]
        input_Pd = input_Nd[chunks.token_P]
        time_P = None
        if self.since is not None and time_N is not None:
            time_P = time_N[chunks.token_P]
        sums = []
        for chunk in chunks.chunks:
            shape = (chunk.sequences, chunk.padded, -1)
            query_nTd = query_Pd[chunk.rows].view(shape)
            input_nTd = input_Pd[chunk.rows].view(shape)

            # Padding is at the end, so no position before it can see it.
            place_T = torch.arange(chunk.padded, device=query_Nd.device)
            distance_TT = place_T[:, None] - place_T
            recency_TT = self._recency(distance_TT.clamp(min=0))
            recency_TT = recency_TT.masked_fill(distance_TT < 0, -torch.inf)
            score_nTT = query_nTd @ input_nTd.transpose(1, 2) + recency_TT
            if self.since is not None and time_P is not None:
                time_nT = time_P[chunk.rows].view(chunk.sequences, chunk.padded)
                since_nTT = time_bucket(time_nT[:, :, None] - time_nT[:, None, :])
                score_nTT = score_nTT + _Select.apply(self.since, since_nTT)
            sums.append(score_nTT.logsumexp(2).flatten())
        return torch.cat(sums)[chunks.place_N]


def _log_sums_of_groups(value_O: Tensor, group_O: Tensor, groups: int) -> Tensor:
    """Returns log sum exp of the values of each group, [groups]; 0 for groups without values."""
    # The largest value is subtracted, so that nothing overflows and no sum is 0.
    lowest = value_O.new_full((groups,), -torch.inf)
    top = lowest.scatter_reduce(0, group_O, value_O.detach(), "amax")
    top = top.masked_fill(torch.isneginf(top), 0.0)

    exp_O = (value_O - top[group_O]).exp()
    sums = torch.zeros_like(top).index_add(0, group_O, exp_O)
    has_values = sums > 0
    return torch.where(has_values, top + torch.where(has_values, sums, 1.0).log(), 0.0)
