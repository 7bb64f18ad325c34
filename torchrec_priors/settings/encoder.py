"""The section `[encoder]`: the network that reads a history."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Count, Probability, Section, check_ranges


@dataclass
class EncoderConfig(Section):
    """The encoder.

    Attributes:
        backbone: `hstu`, `sasrec` (which has neither `time_bias` nor `events`), `shallow`
            (DualVAE's, which has no layers), or the path of a custom file.
        layers: number of layers.
        heads: attention heads; must divide `model.dim`.
        dropout: probability, on the input and inside every layer.
        time_bias: whether attention also has a bias of how long before the query's interaction the
            key's happened.
        events: whether the event type of an interaction is added to its item's vector.
        item_features: columns of `items.parquet` whose values have their own vectors, added to the
            item's. An item has one value; a missing one is a class of its own. `price:32` first
            cuts a number into 32 classes of equal size.
        recompute: whether layers are computed again in backward instead of kept (activation
            checkpointing).
        options: settings of a custom backbone.
    """

    backbone: str = "hstu"
    layers: Annotated[int, Ge(1), Le(1 << 8)] = 2
    heads: Count = 2
    dropout: Probability = 0.2
    time_bias: bool = False
    events: bool = False
    item_features: list[str] = field(default_factory=list)
    recompute: bool = False
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    def check(self, dim: int) -> None:
        """Raises UserError if a value is out of its range or does not fit the model's width."""
        check_ranges(self, "encoder")
        if dim % self.heads:
            raise UserError(f"encoder.heads = {self.heads} must divide model.dim = {dim}")
