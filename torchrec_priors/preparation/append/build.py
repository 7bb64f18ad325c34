"""Builds a data set from a prepared one and a corpus of new raw files, stage by stage.

Only the histories of users with new interactions are sorted again. Their log with the new
interactions is called `now`, and their log without these is called `then`. The code of `prepare`
processes both, and the difference between the results is added to the data set. The result is the
same as if all raw files had been prepared together, except for the row ids of items, the order of
users, and the numbers of groups.
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
from torchrec_priors.preparation.append.content import keep_content
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

# The number of rows that are read at a time.
_BATCH = 1 << 17


@dataclass(frozen=True)
class _Logs:
    """The users with new interactions, and their logs.

    Attributes:
        users: the ids of all users with new interactions.
        in_sequences: the ids of those users that are already in the sequences of the data set.
        then: the log of these users without the new interactions.
        now: the log of these users with the new interactions.
    """

    users: ir.Table
    in_sequences: ir.Table
    then: ir.Table
    now: ir.Table


class AppendBuild:
    """Builds the new data set.

    Args:
        state: the data set before the append.
        corpus: the corpus of the new raw files.
        split: the rule that splits histories into training, validation and test.
        bad_rows: the counts of rows that were left out.
        seed: the seed of the permutation of the new items.
        folder: the folder in which the new data set is built. It is in the engine's folder.
        report: called with a line about each stage.

    Attributes:
        messages: lines for users about priors that should be computed again.
    """

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
        self.messages: list[str] = []

    def run(self, settings: Callable[[], dict[str, Any]]) -> Manifest:
        """Writes all files and returns their manifest.

        Args:
            settings: a function that returns the settings for the manifest. It is called last.
        """
        engine = self.engine
        old = self.state.manifest
        self.report("checking the catalogue and the log")
        if engine.journal.finished("contents") is None:
            contents.check_catalogue(engine, self.corpus)
            contents.check_log(engine, self.corpus)
            engine.journal.finish("contents")
        self.corpus = narrow_events(self.corpus)

        # Both logs go through the same code, so that their difference is exactly the effect of the
        # new interactions.
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

        users = self._new_users(now, logs.in_sequences)
        priors, groups = self._priors(seen, seen_then, items, users, ids)
        keep_content(self.state, self.output, items.number, self.messages.append)
        self._write_sequences(now, logs.in_sequences, ids, groups, users)
        counts = self._counts(then.read, now.read, items.number)
        self._write_held(now, logs.users, ids, users_left_out(counts))

        # A run that was trained on this earlier state recognises the data set by the hash.
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
        """Converts the ids and attributes of the corpus to the types of the data set."""
        kinds = {
            "item_id": self.state.items.item_id.type(),
            "user_id": self.state.users.user_id.type(),
        }

        def cast(table: ir.Table, types: dict[str, Any]) -> ir.Table:
            return table.mutate(**{name: table[name].cast(kind) for name, kind in types.items()})

        def cast_labels(labels: Labels, entity: str) -> Labels:
            return replace(labels, table=cast(labels.table, {entity: kinds[entity]}))

        # Joins and unions of old and new tables need equal types. `check_form` has already checked
        # that integers are not mixed with texts.
        log = expressions.log(corpus)
        attributes = {name: self.state.items[name].type() for name in corpus.items.columns}
        return replace(
            corpus,
            interactions=cast(log, kinds),
            items=cast(corpus.items, attributes),
            item_priors=[cast_labels(labels, "item_id") for labels in corpus.item_priors],
            user_priors=[cast_labels(labels, "user_id") for labels in corpus.user_priors],
        )

    def _with_held(self, corpus: Corpus) -> Corpus:
        """Adds the items and labels that were kept for users who were left out before.

        Kept data takes precedence over new data about the same items or users, because it comes
        from earlier raw files.
        """

        def with_held(labels: Labels, entity: str) -> Labels:
            path = held.labels_path(labels.name)
            if not self.state.has(path):
                return labels
            return held.with_held(labels, entity, self.state.table(path))

        items = corpus.items
        if self.state.has(held.ITEMS):
            kept = self.state.table(held.ITEMS).select(*items.columns)
            items = items.anti_join(kept, "item_id").union(kept)
        return replace(
            corpus,
            items=items,
            item_priors=[with_held(labels, "item_id") for labels in corpus.item_priors],
            user_priors=[with_held(labels, "user_id") for labels in corpus.user_priors],
        )

    def _logs(self) -> _Logs:
        """Returns the logs of the users with new interactions."""
        self.report("looking for the users of the new interactions")
        new = self.engine.materialise("new", self.corpus.interactions)
        users = self.engine.materialise("their_users", new.select("user_id").distinct())
        if not self.engine.value(users.count()):
            raise UserError(
                f"--append: the log of the new raw files ('{self.corpus.name}')"
                " holds no interaction"
            )
        in_sequences = self.engine.materialise(
            "there", self.state.users.select("user_id").semi_join(users, "user_id")
        )

        # A user's old interactions are either in the sequences or among the kept short histories,
        # never in both.
        self.report("reading their histories")
        columns = [*self.state.columns, "order"]
        before = self.state.kept_of(in_sequences).select(columns)
        short = self.state.held_of(users)
        if short is not None:
            before = before.union(short.select(columns))
        before = self.engine.materialise("before", before)

        # Without times, `timestamp` numbers the interactions of a user. The new interactions are
        # numbered after the old ones.
        if not self.corpus.has_times:
            n = before.group_by("user_id").aggregate(n=lambda t: t.count())
            new = new.left_join(n, "user_id").drop("user_id_right")
            new = new.mutate(timestamp=new.timestamp + new.n.fill_null(0))
        return _Logs(users, in_sequences, before, before.union(new.select(columns)))

    def _new_items(self, seen: ir.Table, log: ir.Table) -> Newcomers:
        """Returns the items that the catalogue does not have yet.

        Their row ids follow those of the old items.
        """
        known = self.state.items.select("item_id")
        new = self.corpus.items.anti_join(known, "item_id")
        # Old items need not be in the new catalogue.
        whole = known.union(new.select("item_id"))
        contents.check_items(self.engine, replace(self.corpus, interactions=log, items=whole), seen)
        if self.corpus.items_met:
            new = new.semi_join(seen, "item_id")

        # Only the new items are permuted. Old items must keep their row ids, because trained models
        # refer to them.
        self.report("numbering new items")
        first = self.state.manifest.counts["items"]
        numbered = expressions.permutation(new, seen, self.seed)
        numbered = numbered.mutate(item=(numbered.item + first).cast("int32"))
        table = self.engine.materialise("new_items", expressions.items(new, numbered))
        return Newcomers("item_id", table, self.engine.value(table.count()))

    def _write_items(self, seen: ir.Table, seen_then: ir.Table, new: Newcomers) -> None:
        """Writes the catalogue, with updated frequencies of the old items."""
        # Frequencies count training interactions, and only users with new interactions change them.
        old = self.state.items
        more = seen.group_by("item_id").aggregate(more=lambda t: t.training.sum())
        less = seen_then.group_by("item_id").aggregate(less=lambda t: t.training.sum())
        table = (
            old.left_join(more, "item_id")
            .drop("item_id_right")
            .left_join(less, "item_id")
            .drop("item_id_right")
        )

        change = table.more.fill_null(0) - table.less.fill_null(0)
        table = table.mutate(frequency=(table.frequency + change).cast("int64")).select(old.columns)
        self.output.write(
            "items.parquet", table.union(new.table.select(old.columns)).order_by("item")
        )

    def _new_users(self, now: Bucketed, in_sequences: ir.Table) -> Newcomers:
        """Returns the users that are kept now and were not in the sequences before."""
        parts = [
            expressions.users(expressions.kept(part, self.split), None, self.split)
            for part in now.buckets
        ]
        table = expressions.union([part.select("user_id") for part in parts]).anti_join(
            in_sequences, "user_id"
        )
        table = self.engine.materialise("new_users", table)
        return Newcomers("user_id", table, self.engine.value(table.count()))

    def _priors(
        self, seen: ir.Table, seen_then: ir.Table, items: Newcomers, users: Newcomers, ids: ir.Table
    ) -> tuple[list[PriorInfo], ir.Table | None]:
        """Writes all priors.

        Returns:
            The descriptions of the priors for the manifest, and a table of (user_id, group) with
            the new users' groups for the column `user_group`.
        """
        make = AppendPriors(self.engine, self.state, self.output)
        all_labels = (*self.corpus.item_priors, *self.corpus.user_priors)
        labels_of = {labels.name: labels for labels in all_labels}

        priors = []
        groups = None
        for info in self.state.manifest.priors:
            self.report(f"writing prior {info.name}")
            # All priors of users have the kind "user". Priors of items have "graph" or "item".
            new = users if info.kind == "user" else items
            if info.made_by:
                priors.append(make.computed(info, new, self.messages.append))
            elif info.kind == "event":
                priors.append(make.event(info.name, seen, _more_events(seen, seen_then), ids))
            else:
                made, grouped = make.labelled(labels_of[info.name], new)
                if info.name == self.corpus.user_group:
                    groups = grouped
                priors.append(made)
        return priors, groups

    def _write_sequences(
        self,
        now: Bucketed,
        in_sequences: ir.Table,
        ids: ir.Table,
        groups: ir.Table | None,
        users: Newcomers,
    ) -> None:
        """Writes the old files with the new histories of their users, then files of new users."""
        # `user_group` is not computed again. An old user keeps the value of the old file.
        changed = self.engine.to_arrow(in_sequences)["user_id"].combine_chunks()
        histories = WrittenHistories(self.engine, now.buckets, self.split, ids)
        for number, path in enumerate(self.state.sequences):
            self.report(f"sequences, file {number + 1} of {len(self.state.sequences)}")
            write_replaced(self.output, self.state.folder / path, path, changed, histories)

        if users.number:
            buckets = [bucket.anti_join(in_sequences, "user_id") for bucket in now.buckets]
            new = WrittenHistories(self.engine, buckets, self.split, ids, groups)
            # New users are not added to old files, so an old file without changed users keeps its
            # bytes.
            last = max(int(Path(path).stem.removeprefix("part-")) for path in self.state.sequences)
            before = self.state.manifest.counts["users"]
            write_sequences(
                self.output, new, users.number, self.report, after_users=before, first_part=last + 1
            )

    def _write_held(
        self, now: Bucketed, users: ir.Table, ids: ir.Table, left_out_users: int
    ) -> None:
        """Writes the data that is kept about users with short histories, if there are any."""
        if not left_out_users:
            return
        self.report("keeping short histories")
        changed = self.engine.to_arrow(users)["user_id"].combine_chunks()
        held.write_held(self.output, self.corpus, ids, self._short_histories(now, changed))

    def _short_histories(self, now: Bucketed, changed: pa.Array) -> Iterator[pa.RecordBatch]:
        """Yields the short histories of users without new interactions, then of all others."""
        if self.state.has(held.INTERACTIONS):
            with ParquetReader(self.state.folder / held.INTERACTIONS) as opened:
                for batch in opened.iter_batches(_BATCH):
                    yield batch.filter(pc.invert(pc.is_in(batch["user_id"], value_set=changed)))
        yield from held.interactions_of(self.engine, now.logs, now.buckets, self.split)

    def _files(self) -> list[FileInfo]:
        """Returns the manifest's entries of the files. Unchanged files are not read again."""
        self.report("checksums")
        before = {info.path: info for info in self.state.manifest.files}
        return [self._describe(path, before) for path in sorted(self.output.paths)]

    def _describe(self, path: Path, before: dict[str, FileInfo]) -> FileInfo:
        name = str(path.relative_to(self.output.folder))
        # A hard link to the old file has the same content, so its entry stays the same.
        if name in before and (self.state.folder / name).samefile(path):
            return before[name]
        return manifests.describe_file(path, name)

    def _counts(self, then: dict[str, int], now: dict[str, int], items: int) -> dict[str, Any]:
        """Returns the counts of the new manifest: the old counts minus `then` plus `now`."""
        old = self.state.manifest.counts
        counts = dict(old)
        names = {"users": "kept_users", "interactions": "kept_interactions"}
        for name in ("users", "interactions", "training_interactions", *PARTS):
            if name in old:
                read = names.get(name, name)
                counts[name] += now[read] - then[read]
        counts["items"] += items

        # The bad rows come from the new files only, so nothing is subtracted.
        changed = added(old["dropped"], left_out(self.split, now), left_out(self.split, then))
        dropped = added(changed, self.bad_rows.dropped)
        repairs = added(old["repaired"], repaired(self.corpus, now), repaired(self.corpus, then))
        return {**counts, "dropped": dropped, "repaired": repairs}


def _more_events(seen: ir.Table, seen_then: ir.Table) -> ir.Table:
    """Returns (event, training), the growth in the number of each event's training interactions."""
    less = seen_then.mutate(training=-seen_then.training)
    both = seen.select("event", "training").union(less.select("event", "training"))
    return both.group_by("event").aggregate(training=both.training.sum().cast("int64"))
