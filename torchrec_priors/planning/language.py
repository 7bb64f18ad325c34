"""Memory and operations of language models in a training step: those of items, and that of users.

A layer of a decoder such as Llama keeps these bytes for backward, for each of its tokens, with h
numbers of a state and i numbers inside the feed-forward part:

    fp32    44 h + 16 i
    bf16    36 h +  8 i, and 2 for each weight of the layer, which autocast copies

`tests/planning/test_language.py` compares them with what autograd keeps. With `recompute` a layer
keeps its input only (4 h), and backward needs one layer in addition. Positions take 8 bytes for
each number of a head, with both.

The peak is in the backward pass of the last layer, with these gradients for each token:

    fp32    12 h + 12 i    (with recompute 4 h + 12 i, as the last normalisation is done)
    bf16    12 h +  6 i    (with recompute 4 h +  6 i)

`tests/planning/test_described_activations.py` compares the sum with the peak of a step.

A token takes 2 operations for each weight of the layers in forward, and 2 h for each earlier token
of its window and each layer (on average half of them; products of queries and keys, and of weights
and values). Backward takes twice as many, or as many if the weights are not trained. `recompute`
adds another forward.
"""

from dataclasses import dataclass

# Bytes for each number of a state, each number inside the feed-forward part, and each weight.
_KEPT = {"fp32": (44, 16, 0), "bf16": (36, 8, 2)}
# Bytes of gradients for each number inside the feed-forward part.
_GRADIENTS = {"fp32": 12, "bf16": 6}
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
        inner = self.inner * _GRADIENTS[self.precision]
        positions = 2 * _FLOAT * self.head
        if self.recompute:
            # The layer's input is among what layers keep.
            return self.layer_bytes(tokens) + tokens * (inner + positions)
        return tokens * (3 * _FLOAT * self.width + inner + positions)

    def operations(self, tokens: int) -> float:
        """Returns the number of floating-point operations of a rank in a step."""
        forward = tokens * (2.0 * self.of_layers + 2.0 * self.width * self.window * self.layers)
        times = 1.0
        if self.trained:
            # Gradients of the inputs, and of the weights.
            times += 2.0 if self.trained > self.parameters // 2 else 1.0
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
