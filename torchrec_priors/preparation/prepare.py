"""Raw files -> prepared data set (design: "Prepared data set"), written beside its place and then moved there."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from torchrec_priors.data import manifest as manifests
from torchrec_priors.data.manifest import Manifest, PriorInfo
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.preparation import contents, expressions, labelled
from torchrec_priors.preparation.add_prior import add_prior
from torchrec_priors.preparation.check import check
from torchrec_priors.preparation.communities.prior import communities
from torchrec_priors.preparation.corpus import Corpus, CorpusFile, Labels, corpus_path, find_corpus, load_corpus
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.engine.on_duckdb import DuckDB
from torchrec_priors.preparation.raw import BadRows

_USERS_A_FILE = 1 << 18

Report = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What decides the content of a prepared data set.

    Attributes:
        dataset: name of a corpus, or the path of a corpus file.
        raw: folder of the raw files.
        horizon: E; None takes the corpus's default.
        seed: of the row permutation.
        on_bad_row: `refuse` or `drop`.
    """

    dataset: str
    raw: Path
    horizon: int | None = None
    seed: int = 0
    on_bad_row: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise UserError(f"--horizon must be at least 1, not {self.horizon}")


def prepare(settings: Settings, out: Path, *, overwrite: bool = False, report: Report = lambda _: None) -> Manifest:
    """Makes the data set in `out`; does nothing where `out` already holds the one these settings make.

    Raises:
        UserError: bad raw files, an output folder that holds something else, no user left.
    """
    out = out.absolute()
    corpus_file = find_corpus(settings.dataset)
    present = _already_there(settings, out, overwrite)
    if present is not None:
        report(f"{out} already holds this data set")
        return present
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    engine: DuckDB | None = None
    try:
        work.mkdir(parents=True)
        engine = DuckDB(work)
        (temporary / "priors").mkdir(parents=True)
        (temporary / "sequences").mkdir()
        bad_rows = BadRows(settings.on_bad_row)
        report("reading raw files")
        corpus = check(_load(corpus_file, settings.raw, bad_rows, engine), corpus_path(settings.dataset))
        made = _Builder(settings, corpus, bad_rows, engine.connection, out, temporary, report).run()
        for prior in corpus.computed_priors:
            report(f"computing prior {prior.name}")
            found = communities(prior, PreparedData(temporary), report)
            made = add_prior(temporary, prior.name, found, made)
        old = out.with_name(f".{out.name}.old")
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.replace(old)
        temporary.replace(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out: cannot write '{out}': {error.strerror or error}") from error
    finally:
        if engine is not None:
            engine.close()
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
    return made


def _load(corpus_file: CorpusFile, raw: Path, bad_rows: BadRows, engine: Engine) -> object:
    try:
        return load_corpus(corpus_file, raw, bad_rows, engine)
    except OSError as error:
        raise UserError(f"--raw: cannot read '{error.filename or raw}': {error.strerror or error}") from error


def _already_there(settings: Settings, out: Path, overwrite: bool) -> Manifest | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not manifests.is_data_set(out):
        if overwrite:
            raise UserError(f"--out: '{out}' is not a prepared data set, so --overwrite leaves it alone: move it away")
        raise UserError(f"--out: '{out}' exists and is not a prepared data set: choose another folder")
    if overwrite:
        return None
    present = manifests.read_manifest(out)
    if present.settings != _recorded(settings, present.horizon, out):
        raise UserError(f"--out: '{out}' holds a data set of other settings: choose another folder or --overwrite")
    manifests.verify(out)
    return present


def _recorded(settings: Settings, horizon: int, out: Path) -> dict[str, Any]:
    """The settings as the manifest keeps them; a raw folder may hold the output folder, which is none of its files."""
    ours = {out, *out.parent.glob(f".{out.name}.*")}
    raw = [
        file
        for file in sorted(settings.raw.absolute().rglob("*"))
        if file.is_file() and not ours.intersection(file.parents)
    ]
    return {
        "dataset": Path(settings.dataset).name,
        "corpus_sha256": manifests.sha256(corpus_path(settings.dataset)),
        "raw_sha256": {str(file.relative_to(settings.raw.absolute())): manifests.sha256(file) for file in raw},
        "horizon": settings.horizon or horizon,
        "seed": settings.seed,
        "on_bad_row": settings.on_bad_row,
    }


class _Builder:
    """Runs the expressions on an engine and writes what they give."""

    def __init__(
        self,
        settings: Settings,
        corpus: Corpus,
        bad_rows: BadRows,
        engine: Backend,
        out: Path,
        folder: Path,
        report: Report,
    ) -> None:
        self.settings, self.corpus, self.bad_rows = settings, corpus, bad_rows
        self.out, self.folder, self.report = out, folder, report
        self.horizon = settings.horizon or corpus.default_horizon
        self.engine = engine
        self.written: list[Path] = []

    def run(self) -> Manifest:
        contents.check_catalogue(self.engine, self.corpus)
        contents.check_events(self.engine, self.corpus)
        ranked, kept = expressions.split(self.corpus.interactions, self.horizon)
        kept = self._materialise("kept", kept)
        contents.check_items(self.engine, self.corpus, kept)
        self.report("counting, numbering and splitting")
        parts = expressions.build(self.corpus, kept, self.horizon, self.settings.seed)
        items = self._materialise("items", parts.items)
        kept = self._materialise("kept_items", parts.kept)
        training = kept.filter(kept.position < kept.n - 2 * self.horizon)
        counts = self._counts(ranked, kept, training, items)
        self.report("writing items")
        self._write("items.parquet", _first_columns(items.order_by("item"), ["item", "item_id", "frequency", "title"]))
        self.report("writing priors")
        users = kept.select("user_id").distinct()
        priors = [self._item_prior(labels, items) for labels in self.corpus.item_priors]
        if self.corpus.event_prior:
            priors.append(self._event_prior(self.corpus.event_prior, training))
        groups: ir.Table | None = None
        for labels in self.corpus.user_priors:
            info, table = self._prior(labels, users, "user_id")
            groups = table if labels.name == self.corpus.user_group else groups
            priors.append(info)
        self.report("writing sequences")
        self._write_sequences(expressions.sequences(kept, bool(self.corpus.events), groups), counts["users"])
        files, whole = manifests.describe(self.folder, self.written)
        manifest = Manifest(
            name=self.corpus.name,
            horizon=self.horizon,
            counts=counts,
            split=f"per user, in time: last {self.horizon} test, {self.horizon} before validation, rest training",
            has_times=self.corpus.has_times,
            events=list(self.corpus.events),
            category_prior=self.corpus.category_prior,
            user_group=self.corpus.user_group,
            priors=priors,
            settings=_recorded(self.settings, self.horizon, self.out),
            files=files,
            content_sha256=whole,
        )
        manifest.write(self.folder)
        return manifest

    def _materialise(self, name: str, table: ir.Table) -> ir.Table:
        """Computes a table once, inside the engine."""
        return self.engine.create_table(name, table)

    def _arrow(self, table: ir.Table) -> pa.Table:
        return self.engine.to_pyarrow(table)

    def _counts(self, ranked: ir.Table, kept: ir.Table, training: ir.Table, items: ir.Table) -> dict[str, Any]:
        everything = self._arrow(ranked.aggregate(users=ranked.user_id.nunique(), interactions=ranked.count()))
        remaining = self._arrow(kept.aggregate(users=kept.user_id.nunique(), interactions=kept.count()))
        read, left = everything.to_pylist()[0], remaining.to_pylist()[0]
        if left["users"] == 0:
            raise contents.no_user(self.corpus, self.horizon, read, sum(self.bad_rows.dropped.values()))
        return {
            "users": left["users"],
            "items": self._value(items.count()),
            "interactions": left["interactions"],
            "training_interactions": self._value(training.count()),
            "dropped": {
                "users of at most twice the horizon": read["users"] - left["users"],
                "their interactions": read["interactions"] - left["interactions"],
                **self.bad_rows.dropped,
            },
        }

    def _value(self, scalar: ir.Scalar) -> int:
        return int(self.engine.to_pyarrow(scalar).as_py())

    def _item_prior(self, labels: Labels, items: ir.Table) -> PriorInfo:
        return self._prior(labels, items, "item_id")[0]

    def _prior(self, labels: Labels, entities: ir.Table, entity: str) -> tuple[PriorInfo, ir.Table]:
        """Writes `priors/<name>.parquet` and returns its description and (entity, group) in the engine."""
        names, counts, grouped = labelled.groups(self.engine, labels, entities, entity)
        self._write(f"priors/{labels.name}.parquet", labelled.pairs(grouped, entities, entity))
        return PriorInfo(labels.name, entity.removesuffix("_id"), names, counts), grouped

    def _event_prior(self, name: str, training: ir.Table) -> PriorInfo:
        """Groups are event types; Omega of one is the items that saw it in training."""
        seen = self._arrow(training.group_by("event").aggregate(size=training.count()))
        size = dict(zip(seen["event"].to_pylist(), seen["size"].to_pylist(), strict=True))
        order = sorted(range(len(self.corpus.events)), key=lambda event: (-size.get(event, 0), event))
        groups = pa.table({"event": pa.array(order, pa.int8()), "group": pa.array(range(len(order)), pa.int32())})
        self._write_arrow(f"priors/{name}.parquet", groups.sort_by("event"))
        pairs = training.select("event", "item").distinct().inner_join(ibis.memtable(groups), "event")
        self._write(f"priors/{name}.eligible.parquet", pairs.select("item", "group").order_by(["item", "group"]))
        names = [self.corpus.events[event] for event in order]
        return PriorInfo(name, "event", names, [size.get(event, 0) for event in order], eligible=True)

    def _write_sequences(self, table: ir.Table, users: int) -> None:
        """Many small row groups, so that ranks and workers can share a file."""
        users_a_group = max(16, min(4096, users // 64))
        batches = self.engine.to_pyarrow_batches(table, chunk_size=users_a_group)
        writer, part, rows, waiting = None, -1, _USERS_A_FILE, None
        for batch in batches:
            waiting = pa.table(batch) if waiting is None else pa.concat_tables([waiting, pa.table(batch)])
            while waiting.num_rows >= users_a_group:
                writer, part, rows = self._next_file(writer, part, rows, waiting.schema)
                writer.write_table(waiting.slice(0, users_a_group), row_group_size=users_a_group)
                waiting, rows = waiting.slice(users_a_group), rows + users_a_group
        if waiting is not None and waiting.num_rows:
            writer, part, rows = self._next_file(writer, part, rows, waiting.schema)
            writer.write_table(waiting, row_group_size=users_a_group)
        assert writer is not None
        writer.close()

    def _next_file(
        self, writer: pq.ParquetWriter | None, part: int, rows: int, schema: pa.Schema
    ) -> tuple[pq.ParquetWriter, int, int]:
        if writer is not None and rows < _USERS_A_FILE:
            return writer, part, rows
        if writer is not None:
            writer.close()
        path = self.folder / "sequences" / f"part-{part + 1:05d}.parquet"
        self.written.append(path)
        return pq.ParquetWriter(path, schema, compression="zstd"), part + 1, 0

    def _write(self, name: str, table: ir.Table) -> None:
        self._write_arrow(name, self._arrow(table))

    def _write_arrow(self, name: str, table: pa.Table) -> None:
        path = self.folder / name
        pq.write_table(table, path, compression="zstd")
        self.written.append(path)


def _first_columns(table: ir.Table, first: list[str]) -> ir.Table:
    return table.select(*first, *[name for name in table.columns if name not in first])
