"""Writes the priors of a data set that has grown.

Existing groups keep their numbers and names, and new groups get higher numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.preparation.append.sequences import link
from torchrec_priors.preparation.append.state import State
from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.corpus import Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.manifest import GROWN_FROM, PriorInfo

# These settings of a computed prior are options of `torchrec-priors prior` with the same names.
_OPTIONS = (
    "by",
    "last",
    "weights",
    "neighbours",
    "resolution",
    "groups",
    "min_size",
    "users_per_item",
    "seed",
)


@dataclass(frozen=True)
class Newcomers:
    """Items or users that the data set does not have yet.

    Attributes:
        entity: the name of the id column: `item_id` or `user_id`.
        table: a table with one row for each newcomer. It has the id column, and for items also
            `item`, the row id.
        number: the number of newcomers.
    """

    entity: str
    table: ir.Table
    number: int

    @property
    def column(self) -> str:
        """The column that identifies items or users in a prior's file."""
        return "item" if self.entity == "item_id" else "user_id"


class AppendPriors:
    """Writes the priors of the new data set.

    Args:
        state: the data set before the append.
        output: the files of the new data set.
    """

    def __init__(self, engine: Engine, state: State, output: OutputFiles) -> None:
        self.engine = engine
        self.state = state
        self.output = output

    def labelled(self, labels: Labels, new: Newcomers) -> tuple[PriorInfo, ir.Table]:
        """Writes a prior of labels, to which the newcomers are added.

        Returns:
            The description of the prior for the manifest, and a table of (entity, group) with the
            groups of the newcomers.
        """
        info = self.state.manifest.prior(labels.name)
        member = self.engine.materialise(
            f"new_members_{labels.name}", expressions.members(labels, new.table, new.entity)
        )
        rows = self.engine.to_arrow(expressions.group_sizes(member, new.entity))
        more = dict(zip(rows["label"].to_pylist(), rows["size"].to_pylist(), strict=True))

        # Old groups keep their numbers, because the heads of trained models refer to them. New
        # groups follow, even if they are larger.
        names = [*info.groups, *(label for label in more if label not in set(info.groups))]
        numbers = pa.table(
            {
                "label": pa.array(names, pa.string()),
                "group": pa.array(range(len(names)), pa.int32()),
            }
        )
        grouped = member.inner_join(ibis.memtable(numbers), "label").select(new.entity, "group")
        self._write(info, new, grouped)

        before = dict(zip(info.groups, info.sizes, strict=True))
        sizes = [before.get(name, 0) + more.get(name, 0) for name in names]
        return replace(info, groups=names, sizes=sizes), grouped

    def event(self, name: str, seen: ir.Table, more: ir.Table, ids: ir.Table) -> PriorInfo:
        """Writes the prior over event types.

        The head of a group may retrieve the items that had the group's event in training, before
        or now. These items are the paper's Omega.

        Args:
            name: the name of the prior.
            seen: `expressions.counts` for the users with new interactions. Their new interactions
                are included.
            more: a table of (event, training), the growth in the number of each event's training
                interactions.
            ids: the `item_id` and `item` of all items.
        """
        info = self.state.manifest.prior(name)
        self.output.make(info.path, lambda file: link(self.state.folder / info.path, file))

        # An item stays eligible, because new interactions only make training parts longer.
        path = f"priors/{name}.eligible.parquet"
        groups = self.state.table(info.path).select("event", "group")
        now = expressions.eligible(seen, ids, groups)
        pairs = self.state.table(path).select("item", "group").union(now).distinct()
        self.output.write(path, pairs.order_by(["item", "group"]))

        rows = self.engine.to_arrow(more)
        more_of = dict(zip(rows["event"].to_pylist(), rows["training"].to_pylist(), strict=True))
        events = self.state.manifest.events
        sizes = [
            size + more_of.get(events.index(group), 0)
            for group, size in zip(info.groups, info.sizes, strict=True)
        ]
        return replace(info, sizes=sizes)

    def computed(self, info: PriorInfo, new: Newcomers, say: Callable[[str], None]) -> PriorInfo:
        """Writes a prior that was computed from the data or added to the data set.

        The newcomers are put into the remainder group, which holds everything that no other group
        contains. `say` is called with the command that computes the prior again.
        """
        if not new.number:
            self.output.make(info.path, lambda file: link(self.state.folder / info.path, file))
            return info

        remainder = _remainder_name(
            info, {prior.name: prior.groups for prior in self.state.manifest.priors}
        )
        groups = list(info.groups)
        sizes = list(info.sizes)
        if remainder not in groups:
            groups = [*groups, remainder]
            sizes = [*sizes, 0]
        number = groups.index(remainder)
        sizes[number] += new.number
        self._write(info, new, new.table.mutate(group=ibis.literal(number, "int32")))

        entities = "items" if new.column == "item" else "users"
        command = remake(info, self.state.folder)
        say(
            f"prior {info.name}: {new.number:,} new {entities} are in '{remainder}';"
            f" to compute it again: {command}"
        )

        # The old checksum is recorded, so that runs that were trained with the old file still
        # accept the prior.
        before = next(file.sha256 for file in self.state.manifest.files if file.path == info.path)
        made_by = {**info.made_by, GROWN_FROM: [*info.made_by.get(GROWN_FROM, []), before]}
        return replace(info, groups=groups, sizes=sizes, made_by=made_by)

    def _write(self, info: PriorInfo, new: Newcomers, grouped: ir.Table) -> None:
        """Writes the pairs of the old file and those of the newcomers.

        Args:
            grouped: a table of (entity, group) with the groups of the newcomers.
        """
        if new.entity == "item_id" and "item" not in grouped.columns:
            grouped = grouped.inner_join(new.table.select("item_id", "item"), "item_id")

        # The types of the old file are kept, so that the schema does not change.
        old = self.state.table(info.path)
        types = {name: old[name].type() for name in (new.column, "group")}
        pairs = grouped.select(**{name: grouped[name].cast(kind) for name, kind in types.items()})
        both = old.select(*types).union(pairs)
        self.output.write(info.path, both.order_by([new.column, "group"]))


def remake(info: PriorInfo, data: Path) -> str:
    """Returns the command that computes a prior again from the current data."""
    made = info.made_by
    words = [
        "torchrec-priors prior",
        info.kind,
        "--data",
        quote(str(data)),
        "--name",
        quote(info.name),
        "--overwrite",
    ]

    if made["kind"] == "mapping":
        words += ["--from", quote(made["file"])]
    for name in _OPTIONS:
        if made.get(name):
            words += [f"--{name.replace('_', '-')}", quote(str(made[name]))]

    # Manifests of earlier releases record only whether edges are weighted, and their communities
    # were not joined. Priors of other kinds have no such settings.
    if "weighted" in made:
        words += ["--weights", "shared" if made["weighted"] else "equal"]
    if "weighted" in made or made.get("join") is False:
        words.append("--no-join")
    return " ".join(words)


def _remainder_name(info: PriorInfo, groups_of: dict[str, list[str]]) -> str:
    """Returns the name of the remainder group, which depends on how the prior was computed."""
    kind = info.made_by["kind"]
    if kind == "mapping":
        return f"no {info.name}"
    if kind == "user":
        return "other users"

    remainder = "others"
    # A prior from an attribute takes its names from another prior, which may have a group "others".
    if kind == "attribute":
        while remainder in groups_of.get(info.made_by["by"], []):
            remainder = f"{remainder} (merged)"
    return remainder
