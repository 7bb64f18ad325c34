"""The prepared data set before an append, as tables of an engine."""

from pathlib import Path

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build import held
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.data_set import COLUMN_TYPES
from torchrec_priors.prepared.manifest import Manifest

# Lowest `order` of old interactions: far below that of any new one, so they come first if times
# are equal.
_FIRST = -(2**62)


class State:
    """The tables of the data set.

    Attributes:
        items: `items.parquet`.
        sequences: paths of the files of sequences, in order.
        users: the sequences.
        columns: columns of interactions, without `order`.
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
        self.columns = ["user_id", "item_id", "timestamp"]
        if manifest.events:
            self.columns.append("event")

    def has(self, path: str) -> bool:
        """Whether the data set has this file."""
        return any(info.path == path for info in self.manifest.files)

    def table(self, path: str) -> ir.Table:
        """One of its Parquet files."""
        # Named by number: paths have characters that names of tables must not have.
        number = [info.path for info in self.manifest.files].index(path)
        return self.engine.table(f"before_{number}", [self.folder / path])

    def kept_of(self, users: ir.Table) -> ir.Table:
        """The interactions of these users in the sequences, in original ids.

        `order` is negative and keeps their order.
        """
        sequences = self.users.semi_join(users, "user_id")
        # The lists of a user and their indices are unnested together, one row per interaction.
        lists = [sequences[name] for name in COLUMN_TYPES if name in sequences.columns]
        step = lists[0].zip(*lists[1:], ibis.range(lists[0].length())).unnest()
        steps = sequences.select("user_id", step=step)

        # The fields of `zip` have names of the engine, but the order of the lists.
        names = ["item", *self.columns[2:], "place"]
        fields = zip(names, steps.step.type().names, strict=True)
        steps = steps.select("user_id", **{name: steps.step[field] for name, field in fields})

        known = steps.inner_join(self.items.select("item", "item_id"), "item")
        return known.select(
            *self.columns, order=known.place.cast("int64") + ibis.literal(_FIRST, "int64")
        )

    def held_of(self, users: ir.Table) -> ir.Table | None:
        """The kept short histories of these users, with `order` as in `kept_of`."""
        if not self.has(held.INTERACTIONS):
            return None
        interactions = self.table(held.INTERACTIONS).semi_join(users, "user_id")
        return held.read_held(interactions, _FIRST).select(*self.columns, "order")
