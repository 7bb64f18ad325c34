"""Prepares a data set from raw files.

The data set is built in a work folder next to the output folder, and moved there when it is
complete.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.common.files import remove_leftover
from torchrec_priors.common.plugin import where_it_failed
from torchrec_priors.common.system_errors import cannot, explaining, number_of
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.preparation.build.build import Build
from torchrec_priors.preparation.build.check import check
from torchrec_priors.preparation.build.plain_types import plain
from torchrec_priors.preparation.build.split import TIMES, SplitBy
from torchrec_priors.preparation.build.work_folder import place_of, recover, set_aside, work_folder
from torchrec_priors.preparation.corpus import corpus_path, find_corpus, load_corpus
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.options import read_options, recorded_options
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.communities.prior import communities
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import Manifest

Report = Callable[[str], None]

MADE = "made"  # where the data set is built, in the work folder


@dataclass(frozen=True)
class Settings:
    """The settings that decide the content of a prepared data set.

    Attributes:
        dataset: name of a corpus, or the path of a corpus file.
        raw: folder of the raw files.
        horizon: E; None takes the corpus's default.
        seed: seed of the row permutation.
        on_bad_row: `refuse` or `drop`.
        options: options of the corpus, each as `key=value`.
        split: by user or by time.
        keep_short: whether the interactions of users with short histories are kept for a later
            append. None keeps them unless the corpus leaves out short histories by its
            `min_history`.
    """

    dataset: str
    raw: Path
    horizon: int | None = None
    seed: int = 0
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    options: tuple[str, ...] = ()
    split: SplitBy = field(default_factory=SplitBy)
    keep_short: bool | None = None

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
    """Writes the data set to `out`; does nothing if `out` already holds this data set.

    A preparation that was killed leaves a hidden folder next to `out`; the same call resumes from
    it.

    Args:
        on: the engine that computes; the content does not depend on it.

    Raises:
        UserError: bad raw files, an output folder that holds something else, no user left.
    """
    out = out.absolute()
    # Mistakes in the command are reported before anything is touched.
    find_corpus(settings.dataset)
    recover(out)
    seen = raw_files.seen(settings.raw, ours(out))
    present = _already_prepared(settings, seen, out, overwrite)
    if present is not None:
        report(f"{out} already holds this data set")
        return present

    # Everything that decides what stages leave: with other values the work folder starts empty.
    made_for = {
        **_recorded(settings, settings.horizon),
        "raw": str(settings.raw.absolute()),
        "seen": seen,
    }
    with (
        explaining(f"--out: cannot write '{out}'"),
        work_folder(out, {**made_for, "engine": on.name}, report) as work,
        on.start(work) as engine,
    ):
        # Raw files are hashed in the background while the engine works.
        hashing = raw_files.Checksums(settings.raw.absolute(), seen, engine.journal)
        try:
            manifest = _build(settings, engine, hashing, on.memory, report)
        finally:
            hashing.stop()
        # Only when everything is there: until now `out` is what it was.
        move(work / MADE, out)

    return manifest


def move(made: Path, out: Path) -> None:
    """Moves a new data set to its place.

    A kill between the two moves leaves nothing at `out`; `recover` then puts the old data set back.
    """
    old = set_aside(out)
    if out.exists():
        remove_leftover(old)
        out.replace(old)
    made.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def ours(out: Path) -> list[Path]:
    """The folders that hold no raw files; the output folder may be inside the raw folder."""
    return [out, place_of(out), set_aside(out)]


def load(
    dataset: str, raw: Path, bad_rows: BadRows, engine: Engine, options: Sequence[str]
) -> object:
    """Returns what the corpus's `load` returns for the raw files.

    Raises:
        UserError: raw files that are missing or cannot be read, or an error in the code of the
            corpus file.
    """
    try:
        return load_corpus(find_corpus(dataset), raw, bad_rows, engine, options)
    except OSError as error:
        # A failure of the work folder is one of the output, and reported as such by the caller.
        if Path(error.filename or raw).is_relative_to(engine.folder):
            raise
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            raise UserError(f"--raw: there is no file '{error.filename}': put it there") from error
        raise cannot(f"--raw: cannot read '{error.filename or raw}'", error) from error

    # These say what is wrong themselves.
    except (UserError, OutsideError, MemoryError):
        raise
    # The corpus file may be the user's own code, which may raise anything.
    except Exception as error:
        # The system failed (a full disk, for example), not the code.
        if number_of(error) is not None:
            raise
        raise UserError(
            f"--dataset: load of {where_it_failed(error, corpus_path(dataset))}"
        ) from error


def holds(settings: Settings, seen: raw_files.Seen, present: Manifest) -> bool:
    """Whether a data set is the one of these settings and raw files.

    Reads only raw files that have changed since, by their size and time.
    """
    recorded = dict(present.settings)
    known = recorded.pop("raw_sha256", {})
    seen_then = recorded.pop("raw_seen", {})
    # The times of a split are a result of the preparation, not a setting.
    recorded.pop(TIMES, None)

    wanted = _recorded(settings, settings.horizon or present.horizon)
    if recorded != wanted or known.keys() != seen.keys():
        return False
    return raw_files.checksums(settings.raw.absolute(), seen, known, seen_then) == known


def _build(
    settings: Settings,
    engine: Engine,
    hashing: raw_files.Checksums,
    memory: str,
    report: Report,
) -> Manifest:
    """Builds the data set in the engine's folder."""
    bad_rows = BadRows(settings.on_bad_row)
    report("reading raw files")
    # Set before `load`, as corpora may leave short histories out while they read.
    engine.keeps_short = bool(settings.keep_short)
    loaded = load(settings.dataset, settings.raw, bad_rows, engine, settings.options)
    corpus = plain(check(loaded, corpus_path(settings.dataset)), engine)

    horizon = settings.horizon or corpus.default_horizon
    # A corpus with a minimum leaves out nearly all users: by default it keeps nothing of them.
    keep_short = settings.keep_short
    if keep_short is None:
        keep_short = corpus.min_history <= 1
    folder = engine.folder / MADE
    folder.mkdir(exist_ok=True)

    def recorded() -> dict[str, Any]:
        return {
            **_recorded(settings, horizon),
            "raw_sha256": hashing.result(),
            "raw_seen": hashing.files,
        }

    build = Build(
        engine, corpus, bad_rows, horizon, settings.split, settings.seed, keep_short, folder, report
    )
    manifest = build.run(recorded)

    # Communities are found in the sequences, so these must have been written.
    for prior in corpus.computed_priors:
        report(f"computing prior {prior.name}")
        groups = communities(prior, PreparedData(folder), report, memory)
        manifest = add_prior(folder, prior.name, groups, manifest)
    return manifest


def _already_prepared(
    settings: Settings, seen: raw_files.Seen, out: Path, overwrite: bool
) -> Manifest | None:
    """Returns the manifest of `out` if it holds this data set; None if `out` may be written.

    Raises:
        UserError: `out` holds something that must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None

    if not manifests.is_data_set(out):
        if overwrite:
            raise UserError(
                f"--out: '{out}' is not a prepared data set, so --overwrite does not replace it:"
                " move it away"
            )
        raise UserError(
            f"--out: '{out}' exists and is not a prepared data set: choose another folder"
        )
    if overwrite:
        return None

    present = manifests.read_manifest(out)
    # The raw files of one command do not make a data set that has grown, whatever its settings.
    if present.grown:
        raise UserError(
            f"--out: '{out}' was appended to: --append adds to it, --overwrite replaces it"
        )
    if not holds(settings, seen, present):
        raise UserError(
            f"--out: '{out}' holds a data set of other settings:"
            " choose another folder or --overwrite"
        )
    manifests.verify(out)
    return present


def _recorded(settings: Settings, horizon: int | None) -> dict[str, Any]:
    """The settings as the manifest keeps them, without the raw files."""
    # First, as it raises UserError for a corpus file that does not exist.
    corpus_file = find_corpus(settings.dataset)
    options = recorded_options(read_options(corpus_file, settings.options))
    recorded: dict[str, Any] = {
        "dataset": Path(settings.dataset).name,
        "corpus_sha256": manifests.sha256(corpus_path(settings.dataset)),
        "horizon": horizon,
        "seed": settings.seed,
        "on_bad_row": settings.on_bad_row,
    }

    # Defaults are not written, so manifests stay the same when the program gets a new setting.
    if options:
        recorded["options"] = options
    recorded |= settings.split.recorded()
    if settings.keep_short is not None:
        recorded["keep_short"] = settings.keep_short
    return recorded
