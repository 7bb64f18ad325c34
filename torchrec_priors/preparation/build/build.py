"""Corpus -> files of a prepared data set and their manifest, stage by stage; a stage that is finished is not redone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from torchrec_priors.preparation.build import contents, expressions, labelled
from torchrec_priors.preparation.build.bucketed import Bucketed, bucketed
from torchrec_priors.preparation.build.counts import added, left_out, repaired
from torchrec_priors.preparation.build.held import interactions_of, write_held
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.build.parquet_files import write_arrow
from torchrec_priors.preparation.build.plain_types import narrow_events
from torchrec_priors.preparation.build.sequence_files import WrittenHistories, write_sequences
from torchrec_priors.preparation.build.split import PARTS, SplitBy
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import Manifest, PriorInfo

Report = Callable[[str], None]


class Build:
    """Runs the expressions on an engine and writes what they give.

    Args:
        keep_short: whether the data set keeps what users of short histories did, for a later append.
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
        keep_short: bool,
        folder: Path,
        report: Report,
    ) -> None:
        self.engine = engine
        self.corpus = corpus
        self.bad_rows = bad_rows
        self.horizon = horizon
        self.seed = seed
        self.folder = folder
        self.report = report
        self.split_by = split_by
        self.keep_short = keep_short
        self.output = OutputFiles(engine, folder)

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
        self.corpus = narrow_events(self.corpus)
        self.split = self.split_by.of(
            self.engine, self.corpus, expressions.log(self.corpus), self.horizon
        )
        log = bucketed(self.engine, self.corpus, self.split, self.report)
        if not log.read["kept_users"]:
            raise contents.no_user(
                self.engine, self.corpus, self.split, log, sum(self.bad_rows.dropped.values())
            )
        seen = self.engine.materialise("counts", expressions.summed(log.counts))
        contents.check_items(self.engine, self.corpus, seen)
        self.report("numbering items")
        catalogue = self.corpus.items
        if self.corpus.items_met:
            catalogue = catalogue.semi_join(seen, "item_id")
        ids = self.engine.materialise("items", expressions.permutation(catalogue, seen, self.seed))
        self.report("writing items")
        self.output.write("items.parquet", expressions.items(catalogue, ids))
        priors, groups = self._priors(log, seen, ids)
        histories = WrittenHistories(self.engine, log.buckets, self.split, ids, groups)
        users = log.read["kept_users"]
        write_sequences(self.output, histories, users, self.report)
        if self.keep_short and log.read["users"] > users:
            self.report("keeping short histories")
            short = interactions_of(self.engine, log.logs, log.buckets, self.split)
            write_held(self.output, self.corpus, ids, short)
        counts = self._counts(log, self.engine.value(ids.count()))
        self.report("checksums")
        made_by = {**settings(), **self.split.recorded()}
        files, whole = manifests.describe(self.folder, self.output.paths)
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
        return {
            "users": read["kept_users"],
            "items": items,
            "interactions": read["kept_interactions"],
            "training_interactions": read["training_interactions"],
            **parts,
            "dropped": added(left_out(self.split, read), self.bad_rows.dropped),
            "repaired": repaired(self.corpus, read),
        }

    def _priors(
        self, log: Bucketed, seen: ir.Table, ids: ir.Table
    ) -> tuple[list[PriorInfo], ir.Table | None]:
        """What the manifest says of all priors, and (user_id, group) of the one that fills `user_group`."""
        priors = [self._prior(labels, ids, "item_id")[0] for labels in self.corpus.item_priors]
        if self.corpus.event_prior:
            priors.append(self._event_prior(self.corpus.event_prior, seen, ids))
        groups: ir.Table | None = None
        if self.corpus.user_priors:
            parts = [
                expressions.users(expressions.kept(part, self.split), None, self.split)
                for part in log.buckets
            ]
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
        self.output.write(
            f"priors/{labels.name}.parquet", labelled.pairs(grouped, entities, entity)
        )
        return PriorInfo(labels.name, entity.removesuffix("_id"), names, counts), grouped

    def _event_prior(self, name: str, seen: ir.Table, ids: ir.Table) -> PriorInfo:
        """Groups are event types; Omega of one is the items that saw it in training."""
        self.report(f"writing prior {name}")
        per_event = seen.group_by("event").aggregate(size=seen.training.sum().cast("int64"))
        found = self.engine.to_arrow(per_event)
        size = dict(zip(found["event"].to_pylist(), found["size"].to_pylist(), strict=True))
        order = sorted(
            range(len(self.corpus.events)), key=lambda event: (-size.get(event, 0), event)
        )
        groups = pa.table(
            {"event": pa.array(order, pa.int8()), "group": pa.array(range(len(order)), pa.int32())}
        )
        self.output.make(
            f"priors/{name}.parquet", lambda file: write_arrow(file, groups.sort_by("event"))
        )
        self.output.write(
            f"priors/{name}.eligible.parquet",
            expressions.eligible(seen, ids, ibis.memtable(groups)),
        )
        names = [self.corpus.events[event] for event in order]
        return PriorInfo(
            name, "event", names, [size.get(event, 0) for event in order], eligible=True
        )
