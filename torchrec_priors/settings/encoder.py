"""The section `[encoder]`."""

from dataclasses import dataclass, field

from torchrec_priors.errors import UserError


@dataclass
class EncoderConfig:
    """The encoder.

    Attributes:
        backbone: `hstu`, `sasrec`, `shallow` (no layers), or the path of a file of your own.
        layers: number of layers.
        heads: attention heads; must divide model.dim.
        dropout: probability, on the input and inside every layer.
        time_bias: whether attention also has a bias of how long before the query's interaction the key's happened.
        events: whether the event type of an interaction is added to its item's vector.
        item_features: columns of `items.parquet` whose values have vectors of their own, added to the item's;
            `price:32` cuts a number into 32 groups of equal size first.
        recompute: whether layers are computed again in backward instead of kept (activation checkpointing).
        options: settings of a backbone of your own.
    """

    backbone: str = "hstu"
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    time_bias: bool = False
    events: bool = False
    item_features: list[str] = field(default_factory=list)
    recompute: bool = False
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    def check(self, dim: int) -> None:
        if self.layers < 1:
            raise UserError(f"encoder.layers = {self.layers} must be at least 1")
        if self.heads < 1 or dim % self.heads:
            raise UserError(f"encoder.heads = {self.heads} must divide model.dim = {dim}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"encoder.dropout = {self.dropout} must be in [0, 1)")
