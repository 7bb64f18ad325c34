"""The options of `plan` that describe a model in place of a run's configuration."""

from dataclasses import dataclass

from torchrec_priors.common.limits import check_most
from torchrec_priors.errors import UserError

# The smallest value of each option, and the largest one if it is not 10^9.
_LEAST = {
    "dim": 1,
    "batch": 1,
    "context": 1,
    "negatives": 0,
    "layers": 1,
    "accumulate": 1,
    "queries": 1,
}
_MOST = {"dim": 1 << 16, "context": 1 << 20, "layers": 1 << 10, "queries": 1 << 20}
# Options that are only used if --layers is given.
_WITH_LAYERS = ("--accumulate", "--recompute", "--precision", "--queries")


@dataclass(frozen=True)
class Numbers:
    """The options that describe a model. An option that is not given is None.

    Attributes:
        dim: the width of the rows.
        batch: the number of windows of a rank in a step.
        context: the number of items of a window, including those that are predicted.
        negatives: the number of negatives of a step, over all ranks.
        dense: the number of parameters of the dense model, as the user wrote it.
        layers: the number of layers of the encoder. Without it, activations are not counted.
        accumulate, recompute, precision: settings of a run's configuration.
        queries: the number of paths for which a position has positives.
        sharding, kernel: type and kernel of `ShardingConfig`.
    """

    dim: int | None = None
    batch: int | None = None
    context: int | None = None
    negatives: int | None = None
    dense: str | None = None
    layers: int | None = None
    accumulate: int | None = None
    recompute: bool | None = None
    precision: str | None = None
    queries: int | None = None
    sharding: str | None = None
    kernel: str | None = None

    def check(self) -> None:
        """Raises UserError if a number is out of range, or needs another option."""
        # The limits are far beyond any machine, but small enough that these numbers can be
        # multiplied.
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} must be at least {least}, not {value}")
            if value is not None:
                check_most(f"--{name}", value, _MOST.get(name, 10**9))

        if self.precision not in (None, "fp32", "bf16"):
            raise UserError(f"--precision: there is no '{self.precision}': take fp32 or bf16")
        need_layers = [option for option in self.given() if option in _WITH_LAYERS]
        if self.layers is None and need_layers:
            raise UserError(
                f"{need_layers[0]} is about activations: give --layers, too, or leave it out"
            )

    def given(self) -> list[str]:
        """Returns the options that were given."""
        return [
            f"--{name}" for name in self.__dataclass_fields__ if getattr(self, name) is not None
        ]


DEFAULTS = Numbers(
    batch=128, context=200, negatives=8_192, dense="0", sharding="row_wise", kernel="fused"
)
