"""The section `[baseline]`: a baseline model instead of prior heads."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Section, check_ranges


@dataclass
class BaselineConfig(Section):
    """A baseline model, which makes the queries instead of prior heads.

    Attributes:
        name: the name of a file in `torchrec_priors/baselines/`, such as `comirec`, or the path of
            a custom file; empty for a model with prior heads.
        interests: number of queries for each position, if the baseline has several.
        options: settings of the baseline itself.
    """

    name: str = ""
    interests: Annotated[int, Ge(1), Le(1024)] = 4
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    def check(self) -> None:
        """Raises UserError if a value is out of its range, or has no effect."""
        check_ranges(self, "baseline")

        # Without a baseline, its settings would be ignored silently.
        if self.interests != BaselineConfig.interests and not self.name:
            raise UserError(
                f"baseline.interests = {self.interests} has no effect without baseline.name"
            )
        if self.options and not self.name:
            raise UserError(
                f"baseline.options: '{next(iter(self.options))}' has no effect without "
                "baseline.name"
            )
