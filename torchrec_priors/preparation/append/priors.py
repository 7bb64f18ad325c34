"""Priors of a data set that grew: groups keep their numbers and names, new ones come after them."""

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


@dataclass(frozen=True)
class Newcomers:
    """Items or users that the data set has not yet.

    Attributes:
        entity: `item_id` or `user_id`.
        table: a row each, a column named `entity`; of items also `item`, the row id.
        number: how many there are.
    """

    entity: str
    table: ir.Table
    number: int

    @property
    def column(self) -> str:
        """Of a prior's file."""
        return "item" if self.entity == "item_id" else "user_id"


class AppendPriors:
    """Args: state: before; output: of the data set that is made."""

    def __init__(self, engine: Engine, state: State, output: OutputFiles) -> None:
        self.engine = engine
        self.state = state
        self.output = output

    def labelled(self, labels: Labels, new: Newcomers) -> tuple[PriorInfo, ir.Table]:
        """The prior with the newcomers' labels, and (entity, group) of the newcomers."""
        info = self.state.manifest.prior(labels.name)
        member = self.engine.materialise(
            f"new_members_{labels.name}", expressions.members(labels, new.table, new.entity)
        )
        found = self.engine.to_arrow(expressions.group_sizes(member, new.entity))
        sizes = dict(zip(found["label"].to_pylist(), found["size"].to_pylist(), strict=True))
        names = [*info.groups, *(label for label in sizes if label not in set(info.groups))]
        numbers = pa.table(
            {
                "label": pa.array(names, pa.string()),
                "group": pa.array(range(len(names)), pa.int32()),
            }
        )
        grouped = member.inner_join(ibis.memtable(numbers), "label").select(new.entity, "group")
        self._write(info, new, grouped)
        before = dict(zip(info.groups, info.sizes, strict=True))
        return replace(
            info, groups=names, sizes=[before.get(n, 0) + sizes.get(n, 0) for n in names]
        ), grouped

    def event(self, name: str, seen: ir.Table, more: ir.Table, ids: ir.Table) -> PriorInfo:
        """Groups are event types; Omega of one is what saw it in training, then or now.

        Args:
            seen: `expressions.counts` of users who did something new, as they are now.
            more: (event, training): how many training interactions came to each.
        """
        info = self.state.manifest.prior(name)
        self.output.make(info.path, lambda file: link(self.state.folder / info.path, file))
        path = f"priors/{name}.eligible.parquet"
        groups = self.state.table(info.path).select("event", "group")
        now = expressions.eligible(seen, ids, groups)
        pairs = self.state.table(path).select("item", "group").union(now).distinct()
        self.output.write(path, pairs.order_by(["item", "group"]))
        found = self.engine.to_arrow(more)
        added = dict(zip(found["event"].to_pylist(), found["training"].to_pylist(), strict=True))
        events = self.state.manifest.events
        sizes = [
            size + added.get(events.index(group), 0)
            for group, size in zip(info.groups, info.sizes, strict=True)
        ]
        return replace(info, sizes=sizes)

    def computed(self, info: PriorInfo, new: Newcomers, say: Callable[[str], None]) -> PriorInfo:
        """A prior that was made of the data, or added to it: newcomers are in the group of the rest."""
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
        what = "items" if new.column == "item" else "users"
        command = remake(info, self.state.folder)
        say(
            f"prior {info.name}: {new.number:,} new {what} are in '{rest}'; to make it anew: {command}"
        )
        before = next(file.sha256 for file in self.state.manifest.files if file.path == info.path)
        made_by = {**info.made_by, GROWN_FROM: [*info.made_by.get(GROWN_FROM, []), before]}
        return replace(info, groups=groups, sizes=sizes, made_by=made_by)

    def _write(self, info: PriorInfo, new: Newcomers, grouped: ir.Table) -> None:
        if new.entity == "item_id" and "item" not in grouped.columns:
            grouped = grouped.inner_join(new.table.select("item_id", "item"), "item_id")
        there = self.state.table(info.path)
        types = {name: there[name].type() for name in (new.column, "group")}
        pairs = grouped.select(**{name: grouped[name].cast(kind) for name, kind in types.items()})
        both = there.select(*types).union(pairs)
        self.output.write(info.path, both.order_by([new.column, "group"]))


def _rest(info: PriorInfo, groups_of: dict[str, list[str]]) -> str:
    """The group of those that are in no other."""
    kind = info.made_by["kind"]
    if kind == "mapping":
        return f"no {info.name}"
    if kind == "user":
        return "other users"
    rest = "others"
    if kind == "attribute":
        while rest in groups_of.get(info.made_by["by"], []):
            rest = f"{rest} (merged)"
    return rest


def remake(info: PriorInfo, data: Path) -> str:
    """The command that makes a prior anew of the data as it is."""
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
    for name in (
        "by",
        "last",
        "neighbours",
        "resolution",
        "groups",
        "min_size",
        "users_per_item",
        "seed",
    ):
        if made.get(name):
            words += [f"--{name.replace('_', '-')}", quote(str(made[name]))]
    return " ".join([*words, *(["--unweighted"] if made.get("weighted") is False else [])])
