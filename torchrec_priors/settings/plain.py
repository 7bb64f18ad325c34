"""The section `[plain]`: a plain baseline, which trains nothing."""

import math
from dataclasses import dataclass, field

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Section

# Baselines that recommend what the history has, and nothing else.
_OF_SEEN_ITEMS = ("repeats",)


@dataclass
class PlainConfig(Section):
    """A plain baseline in place of a neural model: no encoder, no training steps, no seeds.

    Attributes:
        name: `popularity`, `trending`, `repeats`, `item_knn`, `transitions` or `ease`; empty for
            none. `priors.tree` must be `[]`. Of the other sections, only `evaluation` has an
            effect.
        options: settings of the baseline itself.
    """

    name: str = ""
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def of_seen_items(self) -> bool:
        """Whether the baseline recommends only items of the history."""
        return self.name in _OF_SEEN_ITEMS

    def check(self) -> None:
        """Raises UserError if there are options of a baseline that is not there."""
        if self.options and not self.name:
            raise UserError(
                f"plain.options: '{next(iter(self.options))}' means nothing without plain.name"
            )
        # The baseline checks everything else about its options.
        for key, value in self.options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"plain.options.{key} = {value} must be a finite number")
