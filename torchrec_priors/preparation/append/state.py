"""Gives an engine access to the tables of a prepared data set, before new files are appended."""

from pathlib import Path

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.build import held
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.manifest import Manifest
from torchrec_priors.prepared.users import COLUMN_TYPES

# The values of `order` of old interactions start here. They are far below those of new
# interactions, so old interactions come first if times are equal.
_FIRST = -(2**62)


class State:
    """The tables of the data set before the append.

    Attributes:
        items: the table of `items.parquet`.
        sequences: the paths of the files of sequences, in order.
        users: the table of sequences, with one row for each user.
        columns: the names of the columns of interactions, without `order`.
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
        """Returns whether the data set has this file."""
        return any(info.path == path for info in self.manifest.files)

    def table(self, path: str) -> ir.Table:
        """Returns the table of one of the Parquet files."""
        # The table is named by the number of the file, because paths contain characters that are
        # not allowed in the names of tables.
        number = [info.path for info in self.manifest.files].index(path)
        return self.engine.table(f"before_{number}", [self.folder / path])

    def kept_of(self, users: ir.Table) -> ir.Table:
        """Returns the interactions of these users in the sequences, with original ids.

        The values of `order` are negative and keep the order of the sequences.
        """
        sequences = self.users.semi_join(users, "user_id")
        # The lists of a user and their indices are unnested together, one row per interaction.
        lists = [sequences[name] for name in COLUMN_TYPES if name in sequences.columns]
        step = lists[0].zip(*lists[1:], ibis.range(lists[0].length())).unnest()
        steps = sequences.select("user_id", step=step)

        # The engine chooses the names of the fields of `zip`, but they are in the order of `lists`.
        names = ["item", *self.columns[2:], "place"]
        fields = zip(names, steps.step.type().names, strict=True)
        steps = steps.select("user_id", **{name: steps.step[field] for name, field in fields})

        known = steps.inner_join(self.items.select("item", "item_id"), "item")
        return known.select(
            *self.columns, order=known.place.cast("int64") + ibis.literal(_FIRST, "int64")
        )

    def held_of(self, users: ir.Table) -> ir.Table | None:
        """Returns the kept short histories of these users, with `order` as in `kept_of`."""
        if not self.has(held.INTERACTIONS):
            return None
        interactions = self.table(held.INTERACTIONS).semi_join(users, "user_id")
        return held.read_held(interactions, _FIRST).select(*self.columns, "order")
