"""The section `[baseline]`: a baseline model in place of prior heads."""

from dataclasses import dataclass, field

from torchrec_priors.errors import UserError


@dataclass
class BaselineConfig:
    """A rival in place of prior heads.

    Attributes:
        name: a file of `torchrec_priors/baselines/`, as `comirec`, or the path of one of your own; empty for none.
        interests: queries of a position, where the baseline has several.
        options: settings of the baseline itself.
    """

    name: str = ""
    interests: int = 4
    options: dict[str, str | int | float | bool] = field(default_factory=dict)

    def check(self) -> None:
        if not 1 <= self.interests <= 1024:
            raise UserError(f"baseline.interests = {self.interests} must be in [1, 1024]")
        if self.interests != BaselineConfig.interests and not self.name:
            raise UserError(
                f"baseline.interests = {self.interests} means nothing without baseline.name"
            )
        if self.options and not self.name:
            raise UserError(
                f"baseline.options: '{next(iter(self.options))}' means nothing without baseline.name"
            )
