"""Checks the options of `torchrec-priors prior` and computes the prior that they request."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrec_priors.common.amounts import memory_of_process
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.priors.attribute import from_attribute
from torchrec_priors.preparation.priors.communities.prior import communities
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.preparation.priors.mapping import from_mapping
from torchrec_priors.prepared.data_set import PreparedData

_GRAPH_OPTIONS = ("last", "weights", "neighbours", "resolution", "groups", "join", "min_size")


@dataclass(frozen=True)
class PriorRequest:
    """The options of the command. None means that an option was not given."""

    kind: str
    name: str
    from_file: Path | None = None
    by: str | None = None
    last: int | None = None
    weights: str | None = None
    neighbours: int | None = None
    resolution: float | None = None
    groups: int | None = None
    join: bool | None = None
    min_size: int | None = None
    users_per_item: int | None = None
    seed: int = 0
    memory: str = MEMORY

    def make(self, data: PreparedData, report: Callable[[str], None] = lambda _: None) -> Grouping:
        """Computes the requested groups of a data set.

        Raises:
            UserError: options contradict each other, or the prior cannot be computed.
        """
        # A wrong --memory is an error even if this prior is computed without an engine.
        memory_of_process(self.memory)

        if self.kind == "item" and self.from_file is None:
            raise UserError(
                "prior item needs --from FILE, a mapping of item_id to label; "
                "for communities: prior graph"
            )

        if self.from_file is not None:
            if self.kind == "graph":
                raise UserError("--from is for prior item and prior user, not for prior graph")
            self._reject_others("--from", takes=())
            return from_mapping(self.name, f"{self.kind}_id", self.from_file, data)

        if self.by is not None:
            if self.kind != "user":
                raise UserError(f"--by is for prior user, not for prior {self.kind}")
            self._reject_others("--by", takes=("groups", "min_size"))
            # Without --min-size, even a group with a single user stays separate.
            min_size = 1 if self.min_size is None else self.min_size
            return from_attribute(self.by, data, groups=self.groups, min_size=min_size)

        if self.kind == "graph":
            self._reject_others("prior graph", takes=(*_GRAPH_OPTIONS, "seed"))
            return communities(GraphPrior(**self._given()), data, report, self.memory)
        return communities(UserPrior(**self._given()), data, report, self.memory)

    def _given(self) -> dict[str, Any]:
        """Returns the settings of communities that the user gave, by name."""
        values = {option: getattr(self, option) for option in (*_GRAPH_OPTIONS, "users_per_item")}
        chosen = {option: value for option, value in values.items() if value is not None}
        return {"name": self.name, "seed": self.seed, **chosen}

    def _reject_others(self, taker: str, takes: tuple[str, ...]) -> None:
        """Raises UserError if an option was given that would have no effect.

        Args:
            taker: the option or kind of prior that decides which options have an effect.
            takes: the names of the options that have an effect.
        """
        for option in ("by", *_GRAPH_OPTIONS, "users_per_item", "seed"):
            if option in takes or f"--{option}" == taker:
                continue
            default = 0 if option == "seed" else None
            if getattr(self, option) != default:
                raise UserError(f"{taker} does not take --{option.replace('_', '-')}: leave it out")
