"""Memory and operations of language models in a training step: those of items, and that of users.

A layer of a decoder such as Llama keeps these bytes for backward, for each of its tokens, with h
numbers of a state and i numbers inside the feed-forward part:

    fp32    44 h + 16 i
    bf16    36 h +  8 i, and 2 for each weight of the layer, which autocast copies

`tests/planning/test_language.py` compares them with what autograd keeps. With `recompute` a layer
keeps its input only (4 h), and backward needs one layer in addition. Positions take 8 bytes for
each number of a head, with both.

The peak is in the backward pass of the last layer, either in its feed-forward part or in its
attention. Gradients and copies of states then take these bytes for each token, of the whole model
or of LoRA, whose matrices are fp32 and whose model has no gradients of its own weights:

                       whole                  LoRA
    fp32               12 h + 8 i  or 32 h    3 h + 8 i  or 23 h
    bf16                8 h + 4 i  or 28 h   10 h + 4 i
    fp32, recompute     8 h + 8 i             7 h + 8 i
    bf16, recompute     6 h + 4 i            14 h + 6 i

`tests/planning/test_described_activations.py` compares the sum with the peak of a step.

A token takes 2 operations for each weight of the layers in forward, and 2 h for each earlier token
of its window and each layer (on average half of them; products of queries and keys, and of weights
and values). Backward takes twice as many, or as many if the weights are not trained. `recompute`
adds another forward.
"""

from dataclasses import dataclass

# Bytes for each number of a state, each number inside the feed-forward part, and each weight.
_KEPT = {"fp32": (44, 16, 0), "bf16": (36, 8, 2)}
# Bytes of gradients and copies at the peak, by precision, recompute and LoRA: for each number of a
# state and each number inside the feed-forward part. The larger sum counts.
_GRADIENTS: dict[tuple[str, bool, bool], tuple[tuple[int, int], ...]] = {
    ("fp32", False, False): ((12, 8), (32, 0)),
    ("fp32", False, True): ((3, 8), (23, 0)),
    ("fp32", True, False): ((8, 8),),
    ("fp32", True, True): ((7, 8),),
    ("bf16", False, False): ((8, 4), (28, 0)),
    ("bf16", False, True): ((10, 4),),
    ("bf16", True, False): ((6, 4),),
    ("bf16", True, True): ((14, 6),),
}
_FLOAT = 4
_COPIES = 4  # of a trained parameter: value, gradient, AdamW's two moments


@dataclass(frozen=True)
class LanguageModel:
    """A language model of a run.

    Attributes:
        name: `items` or `users`.
        model_type: the family, such as `llama`.
        parameters: the number of all parameters.
        trained: the number of those that are trained.
        of_layers: the number of weights of the layers, without the table of words.
        layers, width, inner: the numbers of layers, of a state (h) and inside the feed-forward
            part (i).
        head: the width of a head.
        window: the number of tokens of a window or text.
        windows: the number of windows of a rank in a step, for each window of the batch.
        others: the number of further texts of a step, over all ranks: the negatives.
        recompute: whether layers are computed again in backward.
        precision: `fp32` or `bf16`.
        runs: whether the model computes in every step; a frozen item LLM does not.
    """

    name: str
    model_type: str
    parameters: int
    trained: int
    of_layers: int
    layers: int
    width: int
    inner: int
    head: int
    window: int
    windows: float
    others: int = 0
    recompute: bool = False
    precision: str = "fp32"
    runs: bool = True

    @property
    def parameter_bytes(self) -> int:
        """The bytes of all parameters, and of the gradients and optimizer state of trained ones."""
        return (self.parameters + (_COPIES - 1) * self.trained) * _FLOAT

    @property
    def has_lora(self) -> bool:
        """Whether LoRA is trained, and not the model's own weights."""
        return 0 < self.trained <= self.parameters // 2

    def tokens(self, batch: int, ranks: int) -> int:
        """Returns the number of tokens of a rank in a step.

        Args:
            batch: the number of windows of the rank.
            ranks: the number of ranks.
        """
        if not self.runs:
            return 0
        return int((batch * self.windows + -(-self.others // ranks)) * self.window)

    def layer_bytes(self, tokens: int) -> int:
        """Returns the bytes that a layer keeps for backward."""
        of_state, of_inner, of_weight = _KEPT[self.precision]
        per_token = self.width * of_state + self.inner * of_inner
        return tokens * per_token + of_weight * self.of_layers // self.layers

    def kept_bytes(self, tokens: int, *, recompute: bool | None = None) -> int:
        """Returns the bytes that all layers keep for backward.

        Args:
            tokens: the number of tokens.
            recompute: whether layers are computed again; by default as in the run.
        """
        if not tokens:
            return 0
        if recompute is None:
            recompute = self.recompute
        if recompute:
            return tokens * self.width * _FLOAT * self.layers
        return self.layer_bytes(tokens) * self.layers

    def backward_bytes(self, tokens: int) -> int:
        """Returns the bytes that backward needs at its peak, in addition to what layers keep."""
        if not tokens:
            return 0
        moments = _GRADIENTS[self.precision, self.recompute, self.has_lora]
        gradients = max(of_h * self.width + of_i * self.inner for of_h, of_i in moments)
        positions = 2 * _FLOAT * self.head
        needed = tokens * (gradients + positions)
        if self.recompute:
            # The layer's input is among what layers keep.
            needed += self.layer_bytes(tokens)
        return needed

    def operations(self, tokens: int) -> float:
        """Returns the number of floating-point operations of a rank in a step."""
        forward = tokens * (2.0 * self.of_layers + 2.0 * self.width * self.window * self.layers)
        times = 1.0
        if self.trained:
            # Gradients of the inputs, and of the weights.
            times += 1.0 if self.has_lora else 2.0
        if self.recompute:
            times += 1.0
        return forward * times


def activation_bytes(models: tuple[LanguageModel, ...], batch: int, ranks: int) -> int:
    """Returns the bytes of the language models at the peak of a step.

    The item LLM keeps its results while the user LLM computes.
    """
    kept = 0
    in_backward = 0
    for model in models:
        tokens = model.tokens(batch, ranks)
        kept += model.kept_bytes(tokens)
        in_backward = max(in_backward, model.backward_bytes(tokens))
    return kept + in_backward
