"""Priors of a data set that has grown.

Groups keep their numbers and names; new ones come after them.
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

# Settings of a computed prior that are options of `torchrec-priors prior`.
_OPTIONS = (
    "by",
    "last",
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
        entity: `item_id` or `user_id`.
        table: one row each, with a column named `entity`; for items also `item`, the row id.
        number: how many there are.
    """

    entity: str
    table: ir.Table
    number: int

    @property
    def column(self) -> str:
        """The column of a prior's file that identifies them."""
        return "item" if self.entity == "item_id" else "user_id"


class AppendPriors:
    """Writes the priors.

    Args:
        state: the data set before the append.
        output: the files of the new data set.
    """

    def __init__(self, engine: Engine, state: State, output: OutputFiles) -> None:
        self.engine = engine
        self.state = state
        self.output = output

    def labelled(self, labels: Labels, new: Newcomers) -> tuple[PriorInfo, ir.Table]:
        """Writes a prior of labels, with those of the newcomers.

        Returns:
            Its description for the manifest, and (entity, group) of the newcomers.
        """
        info = self.state.manifest.prior(labels.name)
        member = self.engine.materialise(
            f"new_members_{labels.name}", expressions.members(labels, new.table, new.entity)
        )
        rows = self.engine.to_arrow(expressions.group_sizes(member, new.entity))
        more = dict(zip(rows["label"].to_pylist(), rows["size"].to_pylist(), strict=True))

        # Old groups keep their numbers, by which heads know them; new ones are not sorted in by
        # size.
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

        A group may retrieve the items that had its event in training (Omega), before or now.

        Args:
            seen: `expressions.counts` of users with new interactions, as they are now.
            more: (event, training): how many training interactions each event has more than before.
        """
        info = self.state.manifest.prior(name)
        self.output.make(info.path, lambda file: link(self.state.folder / info.path, file))

        # An item stays eligible: with more interactions the training part of a user only grows.
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
        """Writes a prior that was computed from the data, or added to it.

        Newcomers are in the group of those that no other group has; `say` gets the command that
        computes the prior again.
        """
        if not new.number:
            self.output.make(info.path, lambda file: link(self.state.folder / info.path, file))
            return info

        rest = _rest(info, {prior.name: prior.groups for prior in self.state.manifest.priors})
        groups = list(info.groups)
        sizes = list(info.sizes)
        if rest not in groups:
            groups = [*groups, rest]
            sizes = [*sizes, 0]
        number = groups.index(rest)
        sizes[number] += new.number
        self._write(info, new, new.table.mutate(group=ibis.literal(number, "int32")))

        entities = "items" if new.column == "item" else "users"
        command = remake(info, self.state.folder)
        say(
            f"prior {info.name}: {new.number:,} new {entities} are in '{rest}';"
            f" to compute it again: {command}"
        )

        # Runs that were trained with the old file still match the prior that has grown from it.
        before = next(file.sha256 for file in self.state.manifest.files if file.path == info.path)
        made_by = {**info.made_by, GROWN_FROM: [*info.made_by.get(GROWN_FROM, []), before]}
        return replace(info, groups=groups, sizes=sizes, made_by=made_by)

    def _write(self, info: PriorInfo, new: Newcomers, grouped: ir.Table) -> None:
        """Writes the old pairs and those of the newcomers.

        Args:
            grouped: (entity, group) of the newcomers.
        """
        if new.entity == "item_id" and "item" not in grouped.columns:
            grouped = grouped.inner_join(new.table.select("item_id", "item"), "item_id")

        # Types of the old file, so that its schema does not change.
        old = self.state.table(info.path)
        types = {name: old[name].type() for name in (new.column, "group")}
        pairs = grouped.select(**{name: grouped[name].cast(kind) for name, kind in types.items()})
        both = old.select(*types).union(pairs)
        self.output.write(info.path, both.order_by([new.column, "group"]))


def remake(info: PriorInfo, data: Path) -> str:
    """The command that computes a prior again, from the data as it is now."""
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

    # Weights are the default; manifests of other kinds of priors do not mention them.
    if made.get("weighted") is False:
        words.append("--unweighted")
    return " ".join(words)


def _rest(info: PriorInfo, groups_of: dict[str, list[str]]) -> str:
    """The name of the remainder group, as the code that computed the prior gives it."""
    kind = info.made_by["kind"]
    if kind == "mapping":
        return f"no {info.name}"
    if kind == "user":
        return "other users"

    rest = "others"
    # Groups of an attribute have the names of another prior's groups, one of which may be "others".
    if kind == "attribute":
        while rest in groups_of.get(info.made_by["by"], []):
            rest = f"{rest} (merged)"
    return rest
