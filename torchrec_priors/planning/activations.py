"""Counts the activations of a training step: the peak of a rank's tensors during the step.

Tables and dense parameters are not included. HSTU with the heads of a prior tree is counted, with
the tensors that autograd keeps. A rank computes its windows in `training.accumulate` parts. A part
has N tokens with d numbers each. For backward, a layer keeps these bytes per number:

    4        the input of the layer
    + 9 b    the normalised input, and 4 projections before and after SiLU
    + 2 c    the result of attention, before and after normalisation
    + c      dropout (nothing if dropout is 0)
    + b      the input of the last projection

Here b is 4 bytes, or 2 in bf16. c equals b, except that c is 4 bytes on GPUs, where autocast
normalises in fp32. The sum is 56 bytes in fp32, 36 in bf16 on a GPU, and 30 in bf16 on a CPU. In
fp32 on a CPU, `hstu_layer_native.py` keeps 32 bytes, and 4 for dropout. With `recompute` a layer
keeps only its input, and backward needs the bytes of one layer in addition.

A part has P queries, M positives and, for each token, adapters above the last one with U d numbers
in all. The windows of the whole step have X items, and all ranks together have n negatives. The
peak is at one of these moments, whichever needs most memory:

    loss          the layers, the dropout of the input, 3 N d (the result of the last layer, the
                  states, the tokens), U d (the adapters above the last one), 2 P d (queries and
                  their gradients), a block of logits and its queries (the C++ kernel has a block
                  for each thread; one is counted), 62 M bytes; if there are several parts, also
                  gradients of X d + n d; and what the repeat head keeps
    repeats       the layers, what the repeat head keeps, and its backward (see below)
    backward      all layers except the last (with recompute, their inputs), and 60 bytes per
                  number for the layer in progress, 40 in bf16 on GPUs
    normalising   if scores are cosines: 6 P d instead of 2 P d, while queries are normalised
    rows          gradients that are sent to the tables: 3 (X d + n d)

These tensors exist during the whole step and are added: 32 M + 16 P bytes of all parts, the
gradients of the vectors that were looked up (X d + n d), the negatives that ranks gather (n d),
side features (2 N d of all parts), and content of width c with what it is projected to
((X + n) (c + d)). The vectors that tables return are in `Memory.buffers`.

A repeat head keeps a score for each pair of positions of a window, padded: 4 L^2 bytes for each
window of a part (12 L^2 with a time bias), where L is the context. It also keeps 2 d numbers for
each position, and 2 d numbers for each of the O occurrences of targets in their contexts.
"""

from dataclasses import dataclass

from torchrec_priors.heads.repeat_head import SCORES
from torchrec_priors.ops.joint_softmax import TIMES
from torchrec_priors.ops.padded_chunks import padded_length
from torchrec_priors.ops.softmax_blocks import BLOCK, POSITIVES

# All of these are numbers of bytes.
_FLOAT = 4
_POSITIVE = 32  # of a positive during the whole step: its query, item, distance and path
_QUERY = 16  # of a query during the whole step: its token and path
_OF_LOSS = 62  # of a positive in the loss: ids, sets, copies, score, losses and derivatives
_DECISION = 3 * _FLOAT  # of a gate's decision for a token and an item set
_TARGET = 60  # of a target of the repeat head: its position, offset, flags, logit and losses
_OCCURRENCE = 200  # of an occurrence of a target: its target, positions, bucket, score and share
_TIME = 8  # of the bucket of the time between two positions


@dataclass(frozen=True)
class Activations:
    """The properties of a model and its training that determine the activations.

    Attributes:
        layers: the number of layers of the encoder; 0 for a language model (`language.py`).
        context: the number of tokens of a window.
        horizon: the number of items of a window after the context.
        accumulate: the number of parts in which a rank computes its windows.
        dropout: whether dropout is used.
        recompute: whether layers are computed again in backward.
        precision: `fp32` or `bf16`.
        cosine: whether scores are cosines.
        features: whether side features are added to items.
        gated_sets: the number of item sets of a gate; 0 without a gate.
        sets: the number of item sets with negatives; all have about the same number of negatives.
        joint: whether all sets have one softmax.
        queries: the average number of a token's different paths that have a positive.
        positives: the average number of a token's positives, over all of these paths.
        above: the average number of adapters before the last one, for all queries of a token.
        repeats: whether there is a repeat head.
        repeats_in_time: whether the scores of the repeat head depend on time.
        occurrences: the average number of occurrences of a token's targets in the context.
        content: the width of the content of items; 0 without.
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
    joint: bool = False
    queries: float = 1.0
    positives: float = 8.0
    above: float = 0.0
    repeats: bool = False
    repeats_in_time: bool = False
    occurrences: float = 0.0
    content: int = 0

    def bytes(self, windows: int, dim: int, negatives: int, *, ranks: int, device: str) -> int:
        """Returns the bytes at the peak of a step.

        Args:
            windows: the number of windows of this rank.
            dim: the width of a vector.
            negatives: the number of negatives of the step, over all ranks.
            ranks: the number of ranks.
            device: `cuda` or `cpu`.
        """
        vector = _FLOAT * dim
        parts = min(self.accumulate, max(windows, 1))
        tokens = windows * self.context
        part = -(-windows // parts) * self.context  # tokens of the largest part

        # Tensors that exist during the whole step.
        items = windows * (self.context + self.horizon) + negatives
        looked_up = items * vector
        described = 0
        if self.content:
            described = items * (_FLOAT * self.content + vector)
        gathered = 0
        if ranks > 1:
            gathered = negatives * vector
        features = 0
        if self.features:
            features = 2 * tokens * vector
        indices = tokens * (_POSITIVE * self.positives + _QUERY * self.queries + 8)

        # The moments that may be the peak.
        at_loss = self._at_loss(part, dim, negatives, device)
        if parts > 1:
            at_loss += looked_up  # gradients of the earlier parts
        in_backward = self._in_backward(part, dim, device)
        at_rows = 3 * looked_up
        fullest = max(at_loss, in_backward, at_rows)
        if self.repeats:
            fullest = max(fullest, self._at_repeats(part, dim, device))
        if self.cosine:
            fullest = max(fullest, self._normalising(part, dim, device))
            fullest += looked_up  # normalised copies for the score
        return int(indices + looked_up + gathered + features + described + fullest)

    def layer_bytes(self, device: str) -> int:
        """Returns the bytes that a layer keeps per number of a token, including its input."""
        if self._is_fused(device):
            return _FLOAT * (9 if self.dropout else 8)
        narrow = _FLOAT
        if self.precision == "bf16":
            narrow = 2
        # On GPUs autocast normalises in fp32.
        normed = narrow
        if device == "cuda":
            normed = _FLOAT
        dropout = normed if self.dropout else 0
        return _FLOAT + 9 * narrow + 2 * normed + dropout + narrow

    def _is_fused(self, device: str) -> bool:
        """Returns whether a layer is computed by kernels for CPUs (`hstu_layer_native.py`)."""
        return device == "cpu" and self.precision == "fp32"

    def _layers(self, part: int, dim: int, device: str, layers: int) -> int:
        """Returns the bytes that some layers keep, with the dropout before them."""
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
        """Returns the bytes of a part while the loss is computed."""
        vector = _FLOAT * dim
        queries = part * self.queries
        per_set = negatives // self.sets

        # A block of logits has as many queries as fit. In a joint softmax, it has rows, and its
        # products are for the queries of one set at a time. Positives are scored in pieces, and a
        # piece is made while the one before it still exists.
        width = negatives if self.joint else per_set
        block = max(BLOCK[device] * (TIMES if self.joint else 1), width)
        block_queries = min(queries, block // max(width, 1)) * vector
        pieces = 2 * min(part * self.positives, 2 * POSITIVES) * vector

        kept = self._layers(part, dim, device, self.layers) + part * vector * (3 + self.above)
        gate = 0.0
        if self.gated_sets:
            gate = part * (_DECISION * self.gated_sets + _QUERY * self.positives)
        all_queries = queries * vector * (4 if self.cosine else 2)
        positives = part * self.positives * _OF_LOSS
        logits = block * _FLOAT
        repeats = self._of_repeats(part, dim)
        scratch = max(block_queries, pieces)
        return int(kept + gate + all_queries + scratch + logits + positives + repeats)

    def _of_repeats(self, part: int, dim: int) -> float:
        """Returns the bytes of a part that the repeat head keeps for its backward."""
        if not self.repeats:
            return 0.0
        length = padded_length(self.context)
        windows = part // self.context
        of_score = _FLOAT + (_TIME if self.repeats_in_time else 0)
        scores = windows * length**2 * of_score

        vectors = 2 * _FLOAT * dim * (windows * length + part * self.occurrences)
        # The positives that are left are copied.
        positives = part * _POSITIVE * self.positives
        numbers = part * (_TARGET * self.horizon + _OCCURRENCE * self.occurrences)
        return scores + vectors + positives + numbers

    def _at_repeats(self, part: int, dim: int, device: str) -> int:
        """Returns the bytes of a part during the backward of the repeat head."""
        kept = self._layers(part, dim, device, self.layers) + self._of_repeats(part, dim)
        # One chunk of windows at a time: its scores' gradients, and the exponentials.
        length = padded_length(self.context)
        chunk = min(part // self.context, max(1, SCORES // length**2))
        scores = 2 * _FLOAT * chunk * length**2
        # States and tokens, and the gradients of states, queries and inputs.
        vectors = _FLOAT * dim * part * 5
        return int(kept + scores + vectors)

    def _in_backward(self, part: int, dim: int, device: str) -> int:
        """Returns the bytes of a part during the backward of the last layer."""
        # For each number of a token, the layer in progress needs this many fp32 numbers.
        alive = 15
        if device == "cuda" and self.precision == "bf16":
            alive = 10
        if not self.layers:  # those of a language model are counted elsewhere
            return 0
        if self.recompute and self._is_fused(device):
            alive = 17  # the results of two layers are computed again
        if self.recompute:
            above = self._layers(part, dim, device, self.layers)
            return above + part * dim * _FLOAT * alive

        above = self._layers(part, dim, device, self.layers - 1)
        return above + part * dim * _FLOAT * (alive + 1)

    def _normalising(self, part: int, dim: int, device: str) -> int:
        """Returns the bytes of a part while its queries are normalised."""
        kept = self._layers(part, dim, device, self.layers)
        return int(kept + part * _FLOAT * dim * (2 + self.above + 6 * self.queries))
