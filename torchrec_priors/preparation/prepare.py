"""Raw files -> prepared data set (design: "Prepared data set"), written beside its place and then moved there."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.data import manifest as manifests
from torchrec_priors.data.manifest import Manifest
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.preparation import raw_files
from torchrec_priors.preparation.add_prior import add_prior
from torchrec_priors.preparation.bad_rows import BadRows
from torchrec_priors.preparation.build import Build
from torchrec_priors.preparation.check import check
from torchrec_priors.preparation.communities.prior import communities
from torchrec_priors.preparation.corpus import CorpusFile, corpus_path, find_corpus, load_corpus
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.options import read_options, recorded_options
from torchrec_priors.preparation.split import SplitBy
from torchrec_priors.preparation.work_folder import place_of, work_folder

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
        options: of the corpus, each as `key=value`.
        split: by user or by time.
    """

    dataset: str
    raw: Path
    horizon: int | None = None
    seed: int = 0
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    options: tuple[str, ...] = ()
    split: SplitBy = field(default_factory=SplitBy)

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise UserError(f"--horizon must be at least 1, not {self.horizon}")


def prepare(
    settings: Settings,
    out: Path,
    *,
    overwrite: bool = False,
    report: Report = lambda _: None,
    on: EngineChoice = EngineChoice(),
) -> Manifest:
    """Makes the data set in `out`; does nothing where `out` already holds the one these settings make.

    A preparation that was killed leaves a hidden folder beside `out`; the same call goes on from there.

    Args:
        on: the engine that computes; the content does not depend on it.

    Raises:
        UserError: bad raw files, an output folder that holds something else, no user left.
    """
    out = out.absolute()
    corpus_file = find_corpus(settings.dataset)
    seen = raw_files.seen(settings.raw, _ours(out))
    present = _already_there(settings, seen, out, overwrite)
    if present is not None:
        report(f"{out} already holds this data set")
        return present
    made_for = {**_recorded(settings, settings.horizon), "raw": str(settings.raw.absolute()), "seen": seen}
    try:
        with work_folder(out, {**made_for, "engine": on.name}, report) as work, on.start(work) as engine:
            hashing = raw_files.Checksums(settings.raw.absolute(), seen, engine.journal)
            try:
                made = _make(settings, corpus_file, engine, hashing, on.memory, report)
            finally:
                hashing.stop()
            _move(work / _MADE, out)
    except OSError as error:
        raise UserError(f"--out: cannot write '{out}': {error.strerror or error}") from error
    return made


_MADE = "made"  # in the work folder, the data set


def _make(
    settings: Settings,
    corpus_file: CorpusFile,
    engine: Engine,
    hashing: raw_files.Checksums,
    memory: str,
    report: Report,
) -> Manifest:
    """Makes the data set in the engine's folder."""
    bad_rows = BadRows(settings.on_bad_row)
    report("reading raw files")
    corpus = check(_load(corpus_file, settings, bad_rows, engine), corpus_path(settings.dataset))
    horizon = settings.horizon or corpus.default_horizon
    folder = engine.folder / _MADE
    folder.mkdir(exist_ok=True)

    def recorded() -> dict[str, Any]:
        return {**_recorded(settings, horizon), "raw_sha256": hashing.result(), "raw_seen": hashing.files}

    made = Build(engine, corpus, bad_rows, horizon, settings.split, settings.seed, folder, report).run(recorded)
    for prior in corpus.computed_priors:
        report(f"computing prior {prior.name}")
        found = communities(prior, PreparedData(folder), report, memory)
        made = add_prior(folder, prior.name, found, made)
    return made


def _move(made: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.replace(old)
    made.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def _ours(out: Path) -> list[Path]:
    """Folders that are no raw files, as a raw folder may hold the output folder."""
    return [out, place_of(out), out.with_name(f".{out.name}.old")]


def _load(corpus_file: CorpusFile, settings: Settings, bad_rows: BadRows, engine: Engine) -> object:
    raw = settings.raw
    try:
        return load_corpus(corpus_file, raw, bad_rows, engine, settings.options)
    except OSError as error:
        raise UserError(f"--raw: cannot read '{error.filename or raw}': {error.strerror or error}") from error


def _already_there(settings: Settings, seen: raw_files.Seen, out: Path, overwrite: bool) -> Manifest | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not manifests.is_data_set(out):
        if overwrite:
            raise UserError(f"--out: '{out}' is not a prepared data set, so --overwrite leaves it alone: move it away")
        raise UserError(f"--out: '{out}' exists and is not a prepared data set: choose another folder")
    if overwrite:
        return None
    present = manifests.read_manifest(out)
    if not holds(settings, seen, present):
        raise UserError(f"--out: '{out}' holds a data set of other settings: choose another folder or --overwrite")
    manifests.verify(out)
    return present


def holds(settings: Settings, seen: raw_files.Seen, present: Manifest) -> bool:
    """Whether a data set is what these settings make of the raw files; reads those that changed since."""
    then = dict(present.settings)
    known, looked = then.pop("raw_sha256", {}), then.pop("raw_seen", {})
    same = then == _recorded(settings, settings.horizon or present.horizon) and known.keys() == seen.keys()
    return same and raw_files.checksums(settings.raw.absolute(), seen, known, looked) == known


def _recorded(settings: Settings, horizon: int | None) -> dict[str, Any]:
    """The settings as the manifest keeps them, but for the raw files."""
    options = recorded_options(read_options(find_corpus(settings.dataset), settings.options))
    return {
        "dataset": Path(settings.dataset).name,
        "corpus_sha256": manifests.sha256(corpus_path(settings.dataset)),
        "horizon": horizon,
        "seed": settings.seed,
        "on_bad_row": settings.on_bad_row,
        **({"options": options} if options else {}),
        **settings.split.recorded(),
    }
