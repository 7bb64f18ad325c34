"""Corpus -> files of a prepared data set and their manifest, stage by stage; a stage that is finished is not redone."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.data import manifest as manifests
from torchrec_priors.data.manifest import Manifest, PriorInfo
from torchrec_priors.preparation import contents, expressions, labelled
from torchrec_priors.preparation.bad_rows import BadRows
from torchrec_priors.preparation.bucketed import Bucketed, bucketed
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.parquet_files import even, lists, write_arrow, write_table
from torchrec_priors.preparation.split import PARTS, SplitBy

_USERS_A_FILE = 1 << 18
_STEPS_A_BATCH = 1 << 17

Report = Callable[[str], None]


class Build:
    """Runs the expressions on an engine and writes what they give.

    Args:
        folder: of the data set that is made, in the engine's folder.
    """

    def __init__(
        self,
        engine: Engine,
        corpus: Corpus,
        bad_rows: BadRows,
        horizon: int,
        split_by: SplitBy,
        seed: int,
        folder: Path,
        report: Report,
    ) -> None:
        self.engine, self.corpus, self.bad_rows = engine, corpus, bad_rows
        self.horizon, self.seed, self.folder, self.report = horizon, seed, folder, report
        self.split_by = split_by
        self.written: list[Path] = []

    def run(self, settings: Callable[[], dict[str, Any]]) -> Manifest:
        """Makes all files.

        Args:
            settings: gives what the manifest is to keep; called last.
        """
        self.report("checking the catalogue and the log")
        if self.engine.journal.finished("contents") is None:
            contents.check_catalogue(self.engine, self.corpus)
            contents.check_log(self.engine, self.corpus)
            self.engine.journal.finish("contents")
        self.split = self.split_by.of(self.engine, self.corpus, expressions.log(self.corpus), self.horizon)
        log = bucketed(self.engine, self.corpus, self.split, self.report)
        if not log.read["kept_users"]:
            raise contents.no_user(self.corpus, self.split, log.read, sum(self.bad_rows.dropped.values()))
        seen = self.engine.materialise("counts", _summed(log.counts))
        contents.check_items(self.engine, self.corpus, seen)
        self.report("numbering items")
        ids = self.engine.materialise("items", expressions.permutation(self.corpus.items, seen, self.seed))
        self.report("writing items")
        self._write("items.parquet", expressions.items(self.corpus.items, ids))
        priors, groups = self._priors(log, seen, ids)
        self._write_sequences(log, ids, groups)
        counts = self._counts(log, self.engine.value(ids.count()))
        self.report("checksums")
        made_by = settings()
        files, whole = manifests.describe(self.folder, self.written)
        manifest = Manifest(
            name=self.corpus.name,
            horizon=self.horizon,
            counts=counts,
            split=self.split.rule,
            has_times=self.corpus.has_times,
            events=list(self.corpus.events),
            category_prior=self.corpus.category_prior,
            user_group=self.corpus.user_group,
            priors=priors,
            settings=made_by,
            files=files,
            content_sha256=whole,
        )
        manifest.write(self.folder)
        return manifest

    def _counts(self, log: Bucketed, items: int) -> dict[str, Any]:
        read = log.read
        parts = {name: read[name] for name in PARTS if name in read}
        repeated = {"duplicate interactions": read["duplicates"]} if read["duplicates"] else {}
        return {
            "users": read["kept_users"],
            "items": items,
            "interactions": read["kept_interactions"],
            "training_interactions": read["training_interactions"],
            **parts,
            "dropped": {
                self.split.left_out: read["users"] - read["kept_users"],
                "their interactions": read["interactions"] - read["kept_interactions"],
                **repeated,
                **self.bad_rows.dropped,
            },
            "repaired": {"interactions out of order in time": read["late"] if self.corpus.has_times else 0},
        }

    def _priors(self, log: Bucketed, seen: ir.Table, ids: ir.Table) -> tuple[list[PriorInfo], ir.Table | None]:
        """What the manifest says of all priors, and (user_id, group) of the one that fills `user_group`."""
        priors = [self._prior(labels, ids, "item_id")[0] for labels in self.corpus.item_priors]
        if self.corpus.event_prior:
            priors.append(self._event_prior(self.corpus.event_prior, seen, ids))
        groups: ir.Table | None = None
        if self.corpus.user_priors:
            parts = [expressions.users(expressions.kept(part, self.split), None, self.split) for part in log.buckets]
            users = self.engine.materialise("users", expressions.union(parts))
            for labels in self.corpus.user_priors:
                info, table = self._prior(labels, users, "user_id")
                groups = table if labels.name == self.corpus.user_group else groups
                priors.append(info)
        return priors, groups

    def _prior(self, labels: Labels, entities: ir.Table, entity: str) -> tuple[PriorInfo, ir.Table]:
        """Writes `priors/<name>.parquet` and returns its description and (entity, group) in the engine."""
        self.report(f"writing prior {labels.name}")
        names, counts, grouped = labelled.groups(self.engine, labels, entities, entity)
        self._write(f"priors/{labels.name}.parquet", labelled.pairs(grouped, entities, entity))
        return PriorInfo(labels.name, entity.removesuffix("_id"), names, counts), grouped

    def _event_prior(self, name: str, seen: ir.Table, ids: ir.Table) -> PriorInfo:
        """Groups are event types; Omega of one is the items that saw it in training."""
        self.report(f"writing prior {name}")
        per_event = seen.group_by("event").aggregate(size=seen.training.sum().cast("int64"))
        found = self.engine.to_arrow(per_event)
        size = dict(zip(found["event"].to_pylist(), found["size"].to_pylist(), strict=True))
        order = sorted(range(len(self.corpus.events)), key=lambda event: (-size.get(event, 0), event))
        groups = pa.table({"event": pa.array(order, pa.int8()), "group": pa.array(range(len(order)), pa.int32())})
        file = self.folder / "priors" / f"{name}.parquet"
        write_arrow(file, groups.sort_by("event"))
        self.written.append(file)
        self._write(f"priors/{name}.eligible.parquet", expressions.eligible(seen, ids, ibis.memtable(groups)))
        names = [self.corpus.events[event] for event in order]
        return PriorInfo(name, "event", names, [size.get(event, 0) for event in order], eligible=True)

    def _write(self, name: str, table: ir.Table) -> None:
        file = self.folder / name
        if self.engine.journal.finished(name) is None:
            write_table(self.engine, file, table)
            self.engine.journal.finish(name, files=[file])
        self.written.append(file)

    def _write_sequences(self, log: Bucketed, ids: ir.Table, groups: ir.Table | None) -> None:
        """Many small row groups, so that ranks and workers can share a file; a file is a stage."""
        users = log.read["kept_users"]
        at_once = max(16, min(4096, users // 64))
        files = -(-users // _USERS_A_FILE)
        paths = [self.folder / "sequences" / f"part-{part:05d}.parquet" for part in range(files)]
        names = [str(path.relative_to(self.folder)) for path in paths]
        done = next((part for part, name in enumerate(names) if self.engine.journal.finished(name) is None), files)
        tables = self._sequences(log, ids, groups, at_once, done * _USERS_A_FILE)
        for part in range(done, files):
            self.report(f"writing sequences, file {part + 1} of {files}")
            first = next(tables)
            paths[part].parent.mkdir(exist_ok=True)
            with pq.ParquetWriter(paths[part], first.schema, compression="zstd") as writer:
                writer.write_table(first, row_group_size=at_once)
                for table in islice(tables, -(-_USERS_A_FILE // at_once) - 1):
                    writer.write_table(table, row_group_size=at_once)
            self.engine.journal.finish(names[part], files=[paths[part]])
        self.written += paths

    def _sequences(
        self, log: Bucketed, ids: ir.Table, groups: ir.Table | None, at_once: int, skip: int
    ) -> Iterator[pa.Table]:
        """Tables of `at_once` users in order of user id, but for the first `skip`."""
        tables = self._bucket_sequences(log, ids, groups, at_once, skip)
        first = next(tables, None)
        if first is None:
            return
        yield from even(first.schema, _chain(first, tables), at_once)

    def _bucket_sequences(
        self, log: Bucketed, ids: ir.Table, groups: ir.Table | None, at_once: int, skip: int
    ) -> Iterator[pa.Table]:
        for part in log.buckets:
            kept = expressions.kept(part, self.split)
            users = self.engine.to_arrow(expressions.users(kept, groups, self.split))
            if skip >= len(users):
                skip -= len(users)
                continue
            users, skip = users.slice(skip), 0
            kept = kept.filter(kept.user_id >= users["user_id"][0].as_py())
            steps = self.engine.batches(expressions.steps(kept, ids), _STEPS_A_BATCH)
            yield from lists(users, steps, at_once)


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _summed(counts: ir.Table) -> ir.Table:
    """One row for each item, or item and event."""
    by = [name for name in counts.columns if name not in ("rows", "training")]
    sums = {name: counts[name].sum().cast("int64") for name in ("rows", "training")}
    return counts.group_by(by).aggregate(**sums)
