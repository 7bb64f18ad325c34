"""A prepared data set and a corpus of new raw files -> the data set that grew, stage by stage.

All that is sorted anew are the histories of users who did something new: `now` is their log with it, `then` their log
without. What both come to goes through the code of `prepare`, and what is between the two is added to the data set. So
the result is that of preparing all raw files together, but for the numbers of rows and groups.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError
from torchrec_priors.parquet import ParquetReader
from torchrec_priors.preparation.append.check import check_form
from torchrec_priors.preparation.append.priors import AppendPriors, Newcomers
from torchrec_priors.preparation.append.sequences import write_replaced
from torchrec_priors.preparation.append.state import State
from torchrec_priors.preparation.build import contents, expressions, held
from torchrec_priors.preparation.build.bucketed import Bucketed, bucketed
from torchrec_priors.preparation.build.counts import added, left_out, repaired, users_left_out
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.build.plain_types import narrow_events
from torchrec_priors.preparation.build.sequence_files import WrittenHistories, write_sequences
from torchrec_priors.preparation.build.split import PARTS, Split
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import FileInfo, Manifest, PriorInfo

Report = Callable[[str], None]

_BATCH = 1 << 17


@dataclass(frozen=True)
class _Logs:
    """Who did something new and what they did.

    Attributes:
        users: all of them.
        there: those who are in the sequences.
        then, now: their log without and with what is new.
    """

    users: ir.Table
    there: ir.Table
    then: ir.Table
    now: ir.Table


class AppendBuild:
    """Args: folder: of the data set that is made, in the engine's folder; state: the data set as it is."""

    def __init__(
        self,
        engine: Engine,
        state: State,
        corpus: Corpus,
        split: Split,
        bad_rows: BadRows,
        seed: int,
        folder: Path,
        report: Report,
    ) -> None:
        check_form(corpus, state)
        self.engine = engine
        self.state = state
        self.split = split
        self.bad_rows = bad_rows
        self.seed = seed
        self.report = report
        self.corpus = self._with_held(self._typed(corpus))
        self.output = OutputFiles(engine, folder)
        self.said: list[str] = []

    def run(self, settings: Callable[[], dict[str, Any]]) -> Manifest:
        """Makes all files.

        Args:
            settings: gives what the manifest is to keep; called last.
        """
        engine = self.engine
        old = self.state.manifest
        self.report("checking the catalogue and the log")
        if engine.journal.finished("contents") is None:
            contents.check_catalogue(engine, self.corpus)
            contents.check_log(engine, self.corpus)
            engine.journal.finish("contents")
        self.corpus = narrow_events(self.corpus)
        logs = self._logs()
        then = bucketed(
            engine, replace(self.corpus, interactions=logs.then), self.split, self.report, "then_"
        )
        now = bucketed(
            engine, replace(self.corpus, interactions=logs.now), self.split, self.report, "now_"
        )
        seen_then = engine.materialise("seen_then", expressions.summed(then.counts))
        seen = engine.materialise("seen", expressions.summed(now.counts))
        items = self._new_items(seen, logs.now)
        ids = self.state.items.select("item_id", "item").union(
            items.table.select("item_id", "item")
        )
        self.report("writing items")
        self._write_items(seen, seen_then, items)
        users = self._new_users(now, logs.there)
        priors, groups = self._priors(seen, seen_then, items, users, ids)
        self._write_sequences(now, logs.there, ids, groups, users)
        counts = self._counts(then.read, now.read, items.number)
        self._write_held(now, logs.users, ids, users_left_out(counts))
        earlier = {
            "prepared_sha256": old.prepared_sha256,
            "items": old.counts["items"],
            "users": old.counts["users"],
        }
        files = self._files()
        manifest = replace(
            old,
            counts=counts,
            priors=priors,
            settings=settings(),
            grown=[*old.grown, earlier],
            files=files,
            content_sha256=manifests.hash_of(files),
        )
        manifest.write(self.output.folder)
        return manifest

    def _typed(self, corpus: Corpus) -> Corpus:
        """The corpus with ids and attributes of the types that the data set has."""
        kinds = {
            "item_id": self.state.items.item_id.type(),
            "user_id": self.state.users.user_id.type(),
        }

        def cast(table: ir.Table, types: dict[str, Any]) -> ir.Table:
            return table.mutate(**{name: table[name].cast(kind) for name, kind in types.items()})

        def labels(one: Labels, entity: str) -> Labels:
            return replace(one, table=cast(one.table, {entity: kinds[entity]}))

        log = expressions.log(corpus)
        attributes = {name: self.state.items[name].type() for name in corpus.items.columns}
        return replace(
            corpus,
            interactions=cast(log, kinds),
            items=cast(corpus.items, attributes),
            item_priors=[labels(one, "item_id") for one in corpus.item_priors],
            user_priors=[labels(one, "user_id") for one in corpus.user_priors],
        )

    def _with_held(self, corpus: Corpus) -> Corpus:
        """The corpus with what is kept of items and users who were left out; it counts before what is new of them."""

        def labels(one: Labels, entity: str) -> Labels:
            path = held.labels_path(one.name)
            return (
                held.with_held(one, entity, self.state.table(path)) if self.state.has(path) else one
            )

        items = corpus.items
        if self.state.has(held.ITEMS):
            kept = self.state.table(held.ITEMS).select(*items.columns)
            items = items.anti_join(kept, "item_id").union(kept)
        return replace(
            corpus,
            items=items,
            item_priors=[labels(one, "item_id") for one in corpus.item_priors],
            user_priors=[labels(one, "user_id") for one in corpus.user_priors],
        )

    def _logs(self) -> _Logs:
        """What the users of the new interactions did."""
        self.report("looking for the users of the new interactions")
        new = self.engine.materialise("new", self.corpus.interactions)
        users = self.engine.materialise("their_users", new.select("user_id").distinct())
        if not self.engine.value(users.count()):
            raise UserError(
                f"--append: the log of the new raw files ('{self.corpus.name}') holds no interaction"
            )
        there = self.engine.materialise(
            "there", self.state.users.select("user_id").semi_join(users, "user_id")
        )
        self.report("reading their histories")
        columns = [*self.state.columns, "order"]
        before = self.state.kept_of(there).select(columns)
        kept = self.state.held_of(users)
        if kept is not None:
            before = before.union(kept.select(columns))
        before = self.engine.materialise("before", before)
        if not self.corpus.has_times:
            n = before.group_by("user_id").aggregate(n=lambda t: t.count())
            new = new.left_join(n, "user_id").drop("user_id_right")
            new = new.mutate(timestamp=new.timestamp + new.n.fill_null(0))
        return _Logs(users, there, before, before.union(new.select(columns)))

    def _new_items(self, seen: ir.Table, log: ir.Table) -> Newcomers:
        """Items that the catalogue has not yet, with row ids after the others'."""
        known = self.state.items.select("item_id")
        new = self.corpus.items.anti_join(known, "item_id")
        whole = known.union(new.select("item_id"))
        contents.check_items(self.engine, replace(self.corpus, interactions=log, items=whole), seen)
        if self.corpus.items_met:
            new = new.semi_join(seen, "item_id")
        self.report("numbering new items")
        first = self.state.manifest.counts["items"]
        numbered = expressions.permutation(new, seen, self.seed)
        numbered = numbered.mutate(item=(numbered.item + first).cast("int32"))
        table = self.engine.materialise("new_items", expressions.items(new, numbered))
        return Newcomers("item_id", table, self.engine.value(table.count()))

    def _write_items(self, seen: ir.Table, seen_then: ir.Table, new: Newcomers) -> None:
        there = self.state.items
        more = seen.group_by("item_id").aggregate(more=lambda t: t.training.sum())
        less = seen_then.group_by("item_id").aggregate(less=lambda t: t.training.sum())
        table = (
            there.left_join(more, "item_id")
            .drop("item_id_right")
            .left_join(less, "item_id")
            .drop("item_id_right")
        )
        change = table.more.fill_null(0) - table.less.fill_null(0)
        table = table.mutate(frequency=(table.frequency + change).cast("int64")).select(
            there.columns
        )
        self.output.write(
            "items.parquet", table.union(new.table.select(there.columns)).order_by("item")
        )

    def _new_users(self, now: Bucketed, there: ir.Table) -> Newcomers:
        """Users who are kept now and were not."""
        parts = [
            expressions.users(expressions.kept(part, self.split), None, self.split)
            for part in now.buckets
        ]
        table = expressions.union([part.select("user_id") for part in parts]).anti_join(
            there, "user_id"
        )
        table = self.engine.materialise("new_users", table)
        return Newcomers("user_id", table, self.engine.value(table.count()))

    def _priors(
        self, seen: ir.Table, seen_then: ir.Table, items: Newcomers, users: Newcomers, ids: ir.Table
    ) -> tuple[list[PriorInfo], ir.Table | None]:
        """What the manifest says of all priors, and (user_id, group) of new users for `user_group`."""
        make = AppendPriors(self.engine, self.state, self.output)
        labels = {one.name: one for one in (*self.corpus.item_priors, *self.corpus.user_priors)}
        priors = []
        groups = None
        for info in self.state.manifest.priors:
            self.report(f"writing prior {info.name}")
            new = users if info.kind == "user" else items
            if info.made_by:
                priors.append(make.computed(info, new, self.said.append))
            elif info.kind == "event":
                priors.append(make.event(info.name, seen, _more_events(seen, seen_then), ids))
            else:
                made, grouped = make.labelled(labels[info.name], new)
                groups = grouped if info.name == self.corpus.user_group else groups
                priors.append(made)
        return priors, groups

    def _write_sequences(
        self,
        now: Bucketed,
        there: ir.Table,
        ids: ir.Table,
        groups: ir.Table | None,
        users: Newcomers,
    ) -> None:
        changed = self.engine.to_arrow(there)["user_id"].combine_chunks()
        histories = WrittenHistories(self.engine, now.buckets, self.split, ids)
        for number, path in enumerate(self.state.sequences):
            self.report(f"sequences, file {number + 1} of {len(self.state.sequences)}")
            write_replaced(self.output, self.state.folder / path, path, changed, histories)
        if users.number:
            buckets = [bucket.anti_join(there, "user_id") for bucket in now.buckets]
            new = WrittenHistories(self.engine, buckets, self.split, ids, groups)
            last = max(int(Path(path).stem.removeprefix("part-")) for path in self.state.sequences)
            before = self.state.manifest.counts["users"]
            write_sequences(
                self.output, new, users.number, self.report, after_users=before, first_part=last + 1
            )

    def _write_held(
        self, now: Bucketed, users: ir.Table, ids: ir.Table, left_out_users: int
    ) -> None:
        if not left_out_users:
            return
        self.report("keeping short histories")
        theirs = self.engine.to_arrow(users)["user_id"].combine_chunks()
        held.write_held(self.output, self.corpus, ids, self._held(now, theirs))

    def _held(self, now: Bucketed, users: pa.Array) -> Iterator[pa.RecordBatch]:
        """Short histories: those that were, of users who did nothing new, and those of users who did."""
        if self.state.has(held.INTERACTIONS):
            with ParquetReader(self.state.folder / held.INTERACTIONS) as opened:
                for batch in opened.iter_batches(_BATCH):
                    yield batch.filter(pc.invert(pc.is_in(batch["user_id"], value_set=users)))
        yield from held.interactions_of(self.engine, now.logs, now.buckets, self.split)

    def _files(self) -> list[FileInfo]:
        """What the manifest says of the files; those that are the same as before are not read again."""
        self.report("checksums")
        before = {info.path: info for info in self.state.manifest.files}
        return [self._describe(path, before) for path in sorted(self.output.paths)]

    def _describe(self, path: Path, before: dict[str, FileInfo]) -> FileInfo:
        name = str(path.relative_to(self.output.folder))
        if name in before and (self.state.folder / name).samefile(path):
            return before[name]
        return manifests.describe_file(path, name)

    def _counts(self, then: dict[str, int], now: dict[str, int], items: int) -> dict[str, Any]:
        old = self.state.manifest.counts
        counts = dict(self.state.manifest.counts)
        names = {"users": "kept_users", "interactions": "kept_interactions"}
        for name in ("users", "interactions", "training_interactions", *PARTS):
            if name in old:
                read = names.get(name, name)
                counts[name] += now[read] - then[read]
        counts["items"] += items
        dropped = added(
            added(old["dropped"], left_out(self.split, now), left_out(self.split, then)),
            self.bad_rows.dropped,
        )
        repairs = added(old["repaired"], repaired(self.corpus, now), repaired(self.corpus, then))
        return {**counts, "dropped": dropped, "repaired": repairs}


def _more_events(seen: ir.Table, seen_then: ir.Table) -> ir.Table:
    """(event, training): how many more training interactions each has."""
    less = seen_then.mutate(training=-seen_then.training)
    both = seen.select("event", "training").union(less.select("event", "training"))
    return both.group_by("event").aggregate(training=both.training.sum().cast("int64"))
