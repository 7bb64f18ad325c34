"""Writes the files of a prepared data set and its manifest from a corpus, stage by stage.

When the same command resumes after a kill, finished stages are not repeated.
"""

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
    """Builds a data set from a corpus with an engine.

    Args:
        bad_rows: the counts of rows that were left out.
        horizon: the number of a user's next items that a model predicts.
        split_by: how the log is split into training, validation and test.
        seed: the seed of the permutation that assigns row ids to items.
        keep_short: whether the data set keeps the interactions of users with short histories, for
            a later append.
        folder: the folder in which the data set is built. It is in the engine's folder.
        report: called with a line about each stage.
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
        """Writes all files and returns their manifest.

        Args:
            settings: a function that returns the settings for the manifest. It is called last,
                because it waits for the checksums of the raw files, which are computed in the
                background. It fails if a raw file has changed in the meantime.
        """
        self.report("checking the catalogue and the log")
        if self.engine.journal.finished("contents") is None:
            contents.check_catalogue(self.engine, self.corpus)
            contents.check_log(self.engine, self.corpus)
            self.engine.journal.finish("contents")

        # Event codes have been checked, so they are known to fit in int8.
        self.corpus = narrow_events(self.corpus)
        self.split = self.split_by.resolve(
            self.engine, self.corpus, expressions.log(self.corpus), self.horizon
        )

        # This is the expensive part. All later stages read its tables instead of the log.
        log = bucketed(self.engine, self.corpus, self.split, self.report)
        if not log.read["kept_users"]:
            raise contents.no_user(
                self.engine, self.corpus, self.split, log, sum(self.bad_rows.dropped.values())
            )

        # Only the interactions of kept users must refer to items of the catalogue; those of other
        # users may refer to any item.
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

        # `settings` is called as late as possible, because it waits for the checksums of the raw
        # files.
        counts = self._counts(log, self.engine.value(ids.count()))
        self.report("checksums")
        recorded = {**settings(), **self.split.recorded()}
        files, content_sha256 = manifests.describe(self.folder, self.output.paths)
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
            settings=recorded,
            files=files,
            content_sha256=content_sha256,
        )
        manifest.write(self.folder)
        return manifest

    def _counts(self, log: Bucketed, items: int) -> dict[str, Any]:
        """Returns the counts of the manifest."""
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
        """Writes all priors.

        Returns:
            The descriptions of the priors for the manifest, and the table of (user_id, group) of
            the prior that fills `user_group`.
        """
        priors = [self._prior(labels, ids, "item_id")[0] for labels in self.corpus.item_priors]
        if self.corpus.event_prior:
            priors.append(self._event_prior(self.corpus.event_prior, seen, ids))

        # The table of users is needed only for user priors. Sequences are written from the buckets.
        groups: ir.Table | None = None
        if self.corpus.user_priors:
            parts = [
                expressions.users(expressions.kept(part, self.split), None, self.split)
                for part in log.buckets
            ]
            users = self.engine.materialise("users", expressions.union(parts))
            for labels in self.corpus.user_priors:
                info, grouped = self._prior(labels, users, "user_id")
                if labels.name == self.corpus.user_group:
                    groups = grouped
                priors.append(info)

        return priors, groups

    def _prior(self, labels: Labels, entities: ir.Table, entity: str) -> tuple[PriorInfo, ir.Table]:
        """Writes `priors/<name>.parquet`.

        Returns:
            The description of the prior for the manifest, and the table of (entity, group).
        """
        self.report(f"writing prior {labels.name}")
        names, counts, grouped = labelled.groups(self.engine, labels, entities, entity)
        self.output.write(
            f"priors/{labels.name}.parquet", labelled.pairs(grouped, entities, entity)
        )
        kind = entity.removesuffix("_id")
        return PriorInfo(labels.name, kind, names, counts, words=labels.words), grouped

    def _event_prior(self, name: str, seen: ir.Table, ids: ir.Table) -> PriorInfo:
        """Writes the prior over event types.

        Each event type is a group. The head of a group may retrieve the items that had this event
        in training (the paper's Omega).
        """
        self.report(f"writing prior {name}")
        per_event = seen.group_by("event").aggregate(size=seen.training.sum().cast("int64"))
        rows = self.engine.to_arrow(per_event)
        size_of = dict(zip(rows["event"].to_pylist(), rows["size"].to_pylist(), strict=True))

        # As in every prior, groups are numbered from the largest to the smallest.
        order = sorted(
            range(len(self.corpus.events)), key=lambda event: (-size_of.get(event, 0), event)
        )
        names = [self.corpus.events[event] for event in order]
        sizes = [size_of.get(event, 0) for event in order]
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
        return PriorInfo(name, "event", names, sizes, eligible=True)
