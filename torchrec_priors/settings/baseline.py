"""The section `[baseline]`: a baseline model in place of prior heads."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Section, check_ranges


@dataclass
class BaselineConfig(Section):
    """A baseline model in place of prior heads.

    Attributes:
        name: a file of `torchrec_priors/baselines/`, as `comirec`, or the path of a custom one;
            empty for none.
        interests: queries of a position, if the baseline has several.
        options: settings of the baseline itself.
    """

    name: str = ""
    interests: Annotated[int, Ge(1), Le(1024)] = 4
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    def check(self) -> None:
        """Raises UserError if a value is out of its range or means nothing."""
        check_ranges(self, "baseline")

        # Settings of a baseline that is not there would be ignored silently.
        if self.interests != BaselineConfig.interests and not self.name:
            raise UserError(
                f"baseline.interests = {self.interests} means nothing without baseline.name"
            )
        if self.options and not self.name:
            raise UserError(
                f"baseline.options: '{next(iter(self.options))}' means nothing without "
                "baseline.name"
            )
