"""What a person asks of `torchrec-priors prior`: which options fit together, and who answers."""

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


@dataclass(frozen=True)
class PriorRequest:
    """Options of the app; None stands for what was not given."""

    kind: str
    name: str
    from_file: Path | None = None
    by: str | None = None
    last: int | None = None
    unweighted: bool = False
    neighbours: int | None = None
    resolution: float | None = None
    groups: int | None = None
    min_size: int | None = None
    users_per_item: int | None = None
    seed: int = 0
    memory: str = MEMORY

    def make(self, data: PreparedData, report: Callable[[str], None] = lambda _: None) -> Grouping:
        """The groups that are asked for, of a data set.

        Raises:
            UserError: options that do not go together, or what the ways to make a prior refuse.
        """
        memory_of_process(self.memory)
        if self.kind == "item" and self.from_file is None:
            raise UserError(
                "prior item needs --from FILE, a mapping of item_id to label; for communities: prior graph"
            )
        if self.from_file is not None:
            if self.kind == "graph":
                raise UserError("--from is for prior item and prior user, not for prior graph")
            self._refuse_others("--from", takes=())
            return from_mapping(self.name, f"{self.kind}_id", self.from_file, data)
        if self.by is not None:
            if self.kind != "user":
                raise UserError(f"--by is for prior user, not for prior {self.kind}")
            self._refuse_others("--by", takes=("groups", "min_size"))
            min_size = 1 if self.min_size is None else self.min_size
            return from_attribute(self.by, data, groups=self.groups, min_size=min_size)
        if self.kind == "graph":
            self._refuse_others("prior graph", takes=(*_GRAPH_OPTIONS, "unweighted", "seed"))
            return communities(GraphPrior(**self._given()), data, report, self.memory)
        return communities(UserPrior(**self._given()), data, report, self.memory)

    def _given(self) -> dict[str, Any]:
        """Settings of communities, without those that keep their defaults."""
        given = {option: getattr(self, option) for option in (*_GRAPH_OPTIONS, "users_per_item")}
        chosen = {option: value for option, value in given.items() if value is not None}
        return {"name": self.name, "weighted": not self.unweighted, "seed": self.seed, **chosen}

    def _refuse_others(self, what: str, takes: tuple[str, ...]) -> None:
        """Raises UserError where an option was given that would be without effect."""
        for option in ("by", *_GRAPH_OPTIONS, "users_per_item", "unweighted", "seed"):
            if (
                option not in takes
                and getattr(self, option) not in (None, False, 0)
                and f"--{option}" != what
            ):
                raise UserError(f"{what} goes without --{option.replace('_', '-')}: leave it out")


_GRAPH_OPTIONS = ("last", "neighbours", "resolution", "groups", "min_size")
