"""The section `[encoder]`: the network that reads a history."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from torchrec_priors.errors import UserError
from torchrec_priors.settings.llm import LLMConfig
from torchrec_priors.settings.ranges import Count, Probability, Section, check_ranges


@dataclass
class EncoderConfig(Section):
    """The encoder, which reads a history and computes the user state.

    Attributes:
        backbone: `hstu`, `sasrec` (which has neither `time_bias` nor `events`), `llm` (a language
            model, which has no `time_bias`; its sizes are in `encoder.llm`), `shallow` (DualVAE's
            encoder, which has no layers), or the path of a custom file.
        layers: number of layers.
        heads: number of attention heads; it must divide `model.dim`.
        dropout: probability of dropout, on the input and inside every layer (of a language model:
            on the input only).
        time_bias: whether attention has a learned bias that depends on the time between the
            interaction of the query and that of the key.
        events: whether a vector for the event type of an interaction is added to the item's vector.
        item_features: columns of `items.parquet`. Each value of a column gets a vector, which is
            added to the vectors of items with this value. An item has one value in each column; a
            missing value is treated as a value, too. `price:32` first divides numbers into 32
            classes of equal size.
        recompute: whether layers are computed again in the backward pass, which needs less memory
            than keeping their results (activation checkpointing).
        llm: the language model.
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
    llm: LLMConfig = field(default_factory=LLMConfig)
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def has_llm(self) -> bool:
        """Whether the backbone is a language model, which has sizes of its own."""
        return self.backbone == "llm"

    def check(self, dim: int) -> None:
        """Raises UserError if a value is out of its range or does not fit the model's width."""
        check_ranges(self, "encoder")
        self.llm.check(used=self.has_llm)
        if dim % self.heads and not self.has_llm:
            raise UserError(f"encoder.heads = {self.heads} must divide model.dim = {dim}")
