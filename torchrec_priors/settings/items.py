"""The section `[items]`: the language model that reads the texts of items."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from torchrec_priors.errors import UserError
from torchrec_priors.settings.llm import LLMConfig
from torchrec_priors.settings.ranges import Section, check_ranges

KEY = "items.llm"

Tuning = Literal["frozen", "lora", "whole"]


@dataclass
class ItemsConfig(Section):
    """The item LLM: a language model that makes vectors of items' texts (HLLM).

    Attributes:
        encoder: `llm`, or empty for none.
        content: name of the tokens of items' texts (`torchrec-priors content tokenize`).
        tuning: what is trained: `frozen` (only the projection to `model.dim`), `lora` (low-rank
            additions to the linear layers, by `peft`, and the vector `[ITEM]`) or `whole`.
        lora_rank: the rank of the additions.
        lora_alpha: the additions are multiplied by this number, divided by the rank.
        recompute: whether layers are computed again in the backward pass, which needs less memory
            than keeping their results.
        llm: the language model.
    """

    encoder: Literal["", "llm"] = ""
    content: str = ""
    tuning: Tuning = "whole"
    lora_rank: Annotated[int, Ge(1), Le(1 << 12)] = 16
    lora_alpha: Annotated[int, Ge(1), Le(1 << 16)] = 32
    recompute: bool = False
    llm: LLMConfig = field(default_factory=LLMConfig)

    def check(self) -> None:
        """Raises UserError if a value is out of its range, or if two contradict each other."""
        check_ranges(self, "items")
        if not self.encoder:
            if self != ItemsConfig():
                raise UserError(
                    'the section items is for items.encoder = "llm": set it, or remove the section'
                )
            return
        if not self.content:
            raise UserError(
                'items.encoder = "llm" needs items.content, the tokens of items\' texts: add them '
                "with `torchrec-priors content tokenize`"
            )
        self.llm.check(used=True, key=KEY, setting="items.encoder")
