"""A prepared data set that is appended to, as tables of an engine."""

from pathlib import Path

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build import held
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.data_set import COLUMN_TYPES
from torchrec_priors.prepared.manifest import Manifest

_FIRST = -(2**62)  # `order` of what is there, before that of anything new


class State:
    """What the folder holds.

    Attributes:
        items: `items.parquet`.
        sequences: paths of the sequences' files, in order.
        users: the sequences.
        columns: of interactions, but for `order`.
    """

    def __init__(self, engine: Engine, folder: Path, manifest: Manifest) -> None:
        self.engine = engine
        self.folder = folder
        self.manifest = manifest
        self.items = self.table("items.parquet")
        self.sequences = [
            info.path for info in manifest.files if info.path.startswith("sequences/")
        ]
        self.users = engine.table("before_sequences", [folder / path for path in self.sequences])
        self.columns = ["user_id", "item_id", "timestamp", *(["event"] if manifest.events else [])]

    def has(self, path: str) -> bool:
        return any(info.path == path for info in self.manifest.files)

    def table(self, path: str) -> ir.Table:
        """One of its Parquet files."""
        number = [info.path for info in self.manifest.files].index(path)
        return self.engine.table(f"before_{number}", [self.folder / path])

    def kept_of(self, users: ir.Table) -> ir.Table:
        """What these users did by the sequences, in original ids; `order` is negative and keeps their order."""
        mine = self.users.semi_join(users, "user_id")
        lists = [mine[name] for name in COLUMN_TYPES if name in mine.columns]
        step = lists[0].zip(*lists[1:], ibis.range(lists[0].length())).unnest()
        steps = mine.select("user_id", step=step)
        names = ["item", *self.columns[2:], "place"]
        fields = zip(names, steps.step.type().names, strict=True)
        steps = steps.select("user_id", **{name: steps.step[field] for name, field in fields})
        known = steps.inner_join(self.items.select("item", "item_id"), "item")
        return known.select(
            *self.columns, order=known.place.cast("int64") + ibis.literal(_FIRST, "int64")
        )

    def held_of(self, users: ir.Table) -> ir.Table | None:
        """What these users did by what is kept of short histories; `order` likewise."""
        if not self.has(held.INTERACTIONS):
            return None
        mine = self.table(held.INTERACTIONS).semi_join(users, "user_id")
        return held.read_held(mine, _FIRST).select(*self.columns, "order")
