"""Bytes of a training step on a rank at its fullest moment, without tables and dense parameters.

Counted is HSTU with the heads of a prior tree, as autograd keeps their tensors. Of N tokens of a
part (a rank's windows over `training.accumulate`), d numbers each, a layer keeps for backward

    4        its input
    + 9 b    normed; before and after SiLU, 4 each
    + 2 c    attention's result, normed
    + c      dropout
    + b      what is projected back

bytes per number: 56 in fp32, 36 in bf16 on a GPU, 30 in bf16 on a CPU. Here b is 4 bytes, 2 in
bf16, and c is b, but 4 on GPUs, whose autocast normalises in fp32; a dropout of 0 keeps nothing.
With `recompute` a layer keeps only its input, and its backward has the bytes of one layer.

Of P queries, M positives, X items of the whole step's windows and n negatives of all ranks, the
fullest moment is the largest of

    loss          layers, dropout of the input, 3 N d (the last layer's result, states, tokens),
                  U d (adapters above the last), 2 P d (queries, gradients), a block of logits and
                  its queries, 62 M bytes; if there are several parts, another X d + n d of
                  gradients
    backward      layers but the last (their inputs), and what one layer needs: 60 bytes per
                  number, 40 in bf16 on GPUs
    normalising   of queries, if scores are cosines: 6 P d instead of 2 P d
    rows          gradients on their way to the tables: 3 (X d + n d)

in addition to what lasts for the step: 32 M + 16 P bytes of all parts, gradients of the vectors
that were looked up (X d + n d), the negatives that ranks gather (n d), and side features (2 N d of
all parts). Vectors as tables return them are in `Memory.buffers`.
"""

from dataclasses import dataclass

from torchrec_priors.ops.in_group_softmax import BLOCK, POSITIVES

# Bytes.
_FLOAT = 4
_POSITIVE = 32  # of a positive, for the whole step: its query, item, distance and path
_QUERY = 16  # of a query, for the whole step: its token and path
_OF_LOSS = 62  # of a part's positive: ids, sets, copies, score, losses and their derivatives
_DECISION = 3 * _FLOAT  # of a gate, for a token and item set


@dataclass(frozen=True)
class Activations:
    """What a model and its training keep.

    Attributes:
        layers: number of layers of the encoder.
        context: tokens of a window.
        horizon: items of a window after them.
        accumulate: number of parts in which a rank computes its windows.
        dropout: whether dropout is used.
        recompute: whether layers are computed again in backward.
        precision: `fp32` or `bf16`.
        cosine: whether scores are cosines.
        features: whether side features are added to items.
        gated_sets: number of item sets of a gate.
        sets: number of item sets with negatives, each with about the same number of them.
        queries: distinct paths of a token with a positive, on average.
        positives: positives of a token over these paths.
        above: adapters that a token's queries go through before the last one.
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
        """Returns the bytes at the fullest moment of a step.

        Args:
            windows: number of windows of this rank.
            dim: width of a vector.
            negatives: number of negatives of the step, over all ranks.
            ranks: number of ranks.
            device: `cuda` or `cpu`.
        """
        vector = _FLOAT * dim
        parts = min(self.accumulate, max(windows, 1))
        tokens = windows * self.context
        part = -(-windows // parts) * self.context  # tokens of the largest part

        # What lasts for the whole step.
        looked_up = (windows * (self.context + self.horizon) + negatives) * vector
        gathered = 0
        if ranks > 1:
            gathered = negatives * vector
        features = 0
        if self.features:
            features = 2 * tokens * vector
        indices = tokens * (_POSITIVE * self.positives + _QUERY * self.queries + 8)

        # The moments that may be the fullest.
        at_loss = self._at_loss(part, dim, negatives, device)
        if parts > 1:
            at_loss += looked_up  # gradients, to which those of further parts are added
        in_backward = self._in_backward(part, dim, device)
        at_rows = 3 * looked_up
        fullest = max(at_loss, in_backward, at_rows)
        if self.cosine:
            fullest = max(fullest, self._normalising(part, dim, device))
            fullest += looked_up  # normalised for the score
        return int(indices + looked_up + gathered + features + fullest)

    def layer_bytes(self, device: str) -> int:
        """Returns the bytes that a layer keeps per number of a token, its input included."""
        narrow = _FLOAT
        if self.precision == "bf16":
            narrow = 2
        # On GPUs autocast normalises in fp32.
        normed = narrow
        if device == "cuda":
            normed = _FLOAT
        dropout = normed if self.dropout else 0
        return _FLOAT + 9 * narrow + 2 * normed + dropout + narrow

    def _layers(self, part: int, dim: int, device: str, layers: int) -> int:
        """Returns what this number of layers keeps, and dropout before them."""
        per_number = self.layer_bytes(device)
        if self.recompute:
            per_number = _FLOAT  # only the layer's input
        # Autocast keeps a copy of the weights in bf16.
        weights = 0
        if self.precision == "bf16" and not self.recompute:
            weights = 10 * dim**2 * layers
        dropout = _FLOAT if self.dropout else 0
        return part * (dim * (dropout + layers * per_number) + 4 * _FLOAT * layers) + weights

    def _at_loss(self, part: int, dim: int, negatives: int, device: str) -> int:
        vector = _FLOAT * dim
        queries = part * self.queries
        per_set = negatives // self.sets

        # A block of logits has as many queries as fit; positives are scored in pieces, of which
        # the next is made while the last still exists.
        block = max(BLOCK[device], per_set)
        of_block = min(queries, block // max(per_set, 1)) * vector
        pieces = 2 * min(part * self.positives, 2 * POSITIVES) * vector

        kept = self._layers(part, dim, device, self.layers) + part * vector * (3 + self.above)
        gate = 0.0
        if self.gated_sets:
            gate = part * (_DECISION * self.gated_sets + _QUERY * self.positives)
        of_queries = queries * vector * (4 if self.cosine else 2)
        of_positives = part * self.positives * _OF_LOSS
        return int(kept + gate + of_queries + max(of_block, pieces) + block * _FLOAT + of_positives)

    def _in_backward(self, part: int, dim: int, device: str) -> int:
        # Numbers of fp32 that one layer needs per number of a token.
        alive = 15
        if device == "cuda" and self.precision == "bf16":
            alive = 10
        if self.recompute:
            above = self._layers(part, dim, device, self.layers)
            return above + part * dim * _FLOAT * alive

        above = self._layers(part, dim, device, self.layers - 1)
        return above + part * dim * _FLOAT * (alive + 1)

    def _normalising(self, part: int, dim: int, device: str) -> int:
        kept = self._layers(part, dim, device, self.layers)
        return int(kept + part * _FLOAT * dim * (2 + self.above + 6 * self.queries))
