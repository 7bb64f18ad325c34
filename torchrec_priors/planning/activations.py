"""Bytes that a training step has on a rank at its fullest moment, besides tables and dense parameters.

Counted is HSTU with the heads of a prior tree, as autograd keeps their tensors. Of N tokens of a part (a rank's windows
over `training.accumulate`), d numbers each, a layer keeps for backward

    4 (its input) + 9 b (normed; before and after SiLU, 4 each) + 2 c (attention's result, normed) + c (dropout) + b
    (what is projected back)    bytes a number: 56 in fp32, 36 in bf16 on a GPU, 30 in bf16 on a CPU

where b is 4 bytes, 2 in bf16, and c is b, but 4 on GPUs, whose autocast normalises in fp32; nothing for a dropout of 0.
With `recompute` it keeps its input alone, and its backward has those of one layer. Of P queries, M positives, X items
of the whole step's windows and n negatives of all ranks, the fullest moment is the largest of

    loss          layers, dropout of the input, 3 N d (the last layer's result, states, tokens), U d (adapters above the
                  last), 2 P d (queries, gradients), a block of logits and its queries, 62 M bytes; where parts add
                  up, another X d + n d of gradients
    backward      layers but the last (their inputs), and what lives in one layer: 60 bytes a number, 40 in bf16 on GPUs
    normalising   of queries, where scores are cosines: 6 P d in place of 2 P d
    rows          gradients on their way to the tables: 3 (X d + n d)

beside what lasts for the step: 32 M + 16 P bytes of all parts, gradients of what was looked up (X d + n d), the
negatives that ranks gather (n d), and side features (2 N d of all parts). Vectors as tables give them are in
`Memory.buffers`.
"""

from dataclasses import dataclass

from torchrec_priors.ops.in_group_softmax import BLOCK, POSITIVES

_FLOAT = 4  # bytes
_POSITIVE = 32  # of the step: its query, item, distance and path
_QUERY = 16  # likewise: its token and path
_OF_LOSS = 62  # of a part's positive: ids, sets, copies, score, losses and their derivatives
_DECISION = 3 * _FLOAT  # of a gate, for a token and item set


@dataclass(frozen=True)
class Activations:
    """What a model and its training keep.

    Attributes:
        layers: of the encoder.
        context: tokens of a window.
        horizon: items of a window after them.
        accumulate: parts in which a rank computes its windows.
        dropout: whether there is any.
        recompute: whether layers are computed again in backward.
        precision: `fp32` or `bf16`.
        cosine: whether the score is of cosines.
        features: whether side features are added to items.
        gated_sets: item sets of a gate.
        sets: item sets that negatives are of, about as many each.
        queries: distinct paths that a token asks, on average.
        positives: what it asks them for.
        above: adapters that its queries go through before the last one.
    """

    layers: int
    context: int
    horizon: int = 8
    accumulate: int = 1
    dropout: bool = True
    recompute: bool = False
    precision: str = "fp32"
    cosine: bool = False
    features: bool = False
    gated_sets: int = 0
    sets: int = 1
    queries: float = 1.0
    positives: float = 8.0
    above: float = 0.0

    def bytes(self, windows: int, dim: int, negatives: int, *, ranks: int, device: str) -> int:
        """At the fullest moment of a step.

        Args:
            windows: of this rank.
            negatives: of the step, over all ranks.
            device: `cuda` or `cpu`.
        """
        vector = _FLOAT * dim
        parts = min(self.accumulate, max(windows, 1))
        tokens = windows * self.context
        part = -(-windows // parts) * self.context
        looked_up = (windows * (self.context + self.horizon) + negatives) * vector
        gathered = negatives * vector if ranks > 1 else 0
        beside = 2 * tokens * vector if self.features else 0
        numbers = tokens * (_POSITIVE * self.positives + _QUERY * self.queries + 8)
        fullest = max(
            self._at_loss(part, dim, negatives, device) + (looked_up if parts > 1 else 0),
            self._in_backward(part, dim, device),
            self._normalising(part, dim, device) if self.cosine else 0,
            3 * looked_up,
        )
        if self.cosine:
            fullest += looked_up  # normalised for the score
        return int(numbers + looked_up + gathered + beside + fullest)

    def layer_bytes(self, device: str) -> int:
        """What a layer keeps of a number of a token, its input included."""
        narrow = 2 if self.precision == "bf16" else _FLOAT
        normed = _FLOAT if device == "cuda" else narrow
        return _FLOAT + 9 * narrow + 2 * normed + (normed if self.dropout else 0) + narrow

    def _layers(self, part: int, dim: int, device: str, layers: int) -> int:
        """What so many layers keep, and dropout before them."""
        of_number = _FLOAT if self.recompute else self.layer_bytes(device)
        weights = 10 * dim**2 * layers if self.precision == "bf16" and not self.recompute else 0
        before = _FLOAT if self.dropout else 0
        return part * (dim * (before + layers * of_number) + 4 * _FLOAT * layers) + weights

    def _at_loss(self, part: int, dim: int, negatives: int, device: str) -> int:
        vector = _FLOAT * dim
        queries = part * self.queries
        block = max(BLOCK[device], negatives // self.sets)
        of_block = min(queries, block // max(negatives // self.sets, 1)) * vector
        pieces = (
            2 * min(part * self.positives, 2 * POSITIVES) * vector
        )  # the next is made beside the last
        kept = self._layers(part, dim, device, self.layers) + part * vector * (3 + self.above)
        gate = part * (
            _DECISION * self.gated_sets + (_QUERY * self.positives if self.gated_sets else 0)
        )
        of_queries = queries * vector * (4 if self.cosine else 2)
        of_positives = part * self.positives * _OF_LOSS
        return int(kept + gate + of_queries + max(of_block, pieces) + block * _FLOAT + of_positives)

    def _in_backward(self, part: int, dim: int, device: str) -> int:
        alive = 10 if device == "cuda" and self.precision == "bf16" else 15
        above = self._layers(part, dim, device, self.layers if self.recompute else self.layers - 1)
        return above + part * dim * _FLOAT * (alive if self.recompute else alive + 1)

    def _normalising(self, part: int, dim: int, device: str) -> int:
        kept = self._layers(part, dim, device, self.layers)
        return int(kept + part * _FLOAT * dim * (2 + self.above + 6 * self.queries))
