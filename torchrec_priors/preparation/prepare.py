"""Raw files -> prepared data set (design: "Prepared data set"), written beside its place and then moved there."""

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
        keep_short: whether what users of short histories did is kept, for a later append; None keeps it unless the
            corpus leaves out short histories by its `min_history`.
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
    """Makes the data set in `out`; does nothing where `out` already holds the one these settings make.

    A preparation that was killed leaves a hidden folder beside `out`; the same call goes on from there.

    Args:
        on: the engine that computes; the content does not depend on it.

    Raises:
        UserError: bad raw files, an output folder that holds something else, no user left.
    """
    out = out.absolute()
    find_corpus(settings.dataset)
    recover(out)
    seen = raw_files.seen(settings.raw, ours(out))
    present = _already_there(settings, seen, out, overwrite)
    if present is not None:
        report(f"{out} already holds this data set")
        return present
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
        hashing = raw_files.Checksums(settings.raw.absolute(), seen, engine.journal)
        try:
            made = _make(settings, engine, hashing, on.memory, report)
        finally:
            hashing.stop()
        move(work / _MADE, out)
    return made


_MADE = "made"  # in the work folder, the data set


def _make(
    settings: Settings,
    engine: Engine,
    hashing: raw_files.Checksums,
    memory: str,
    report: Report,
) -> Manifest:
    """Makes the data set in the engine's folder."""
    bad_rows = BadRows(settings.on_bad_row)
    report("reading raw files")
    engine.keeps_short = bool(settings.keep_short)
    loaded = load(settings.dataset, settings.raw, bad_rows, engine, settings.options)
    corpus = plain(check(loaded, corpus_path(settings.dataset)), engine)
    horizon = settings.horizon or corpus.default_horizon
    folder = engine.folder / _MADE
    folder.mkdir(exist_ok=True)

    def recorded() -> dict[str, Any]:
        return {
            **_recorded(settings, horizon),
            "raw_sha256": hashing.result(),
            "raw_seen": hashing.files,
        }

    keep_short = corpus.min_history <= 1 if settings.keep_short is None else settings.keep_short
    build = Build(
        engine, corpus, bad_rows, horizon, settings.split, settings.seed, keep_short, folder, report
    )
    made = build.run(recorded)
    for prior in corpus.computed_priors:
        report(f"computing prior {prior.name}")
        found = communities(prior, PreparedData(folder), report, memory)
        made = add_prior(folder, prior.name, found, made)
    return made


def move(made: Path, out: Path) -> None:
    """Puts the data set that was made into its place; between the two moves `recover` knows of the old one."""
    old = set_aside(out)
    if out.exists():
        remove_leftover(old)
        out.replace(old)
    made.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def ours(out: Path) -> list[Path]:
    """Folders that are no raw files, as a raw folder may hold the output folder."""
    return [out, place_of(out), set_aside(out)]


def load(
    dataset: str, raw: Path, bad_rows: BadRows, engine: Engine, options: Sequence[str]
) -> object:
    """What the corpus says of the raw files."""
    try:
        return load_corpus(find_corpus(dataset), raw, bad_rows, engine, options)
    except OSError as error:
        if Path(error.filename or raw).is_relative_to(engine.folder):
            raise
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            raise UserError(f"--raw: there is no file '{error.filename}': put it there") from error
        raise cannot(f"--raw: cannot read '{error.filename or raw}'", error) from error
    except (UserError, OutsideError, MemoryError):
        raise
    except Exception as error:  # of a file that may be the user's own
        if number_of(error) is not None:  # a full disk, say, which is nobody's fault
            raise
        raise UserError(
            f"--dataset: load of {where_it_failed(error, corpus_path(dataset))}"
        ) from error


def _already_there(
    settings: Settings, seen: raw_files.Seen, out: Path, overwrite: bool
) -> Manifest | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not manifests.is_data_set(out):
        if overwrite:
            raise UserError(
                f"--out: '{out}' is not a prepared data set, so --overwrite leaves it alone: move it away"
            )
        raise UserError(
            f"--out: '{out}' exists and is not a prepared data set: choose another folder"
        )
    if overwrite:
        return None
    present = manifests.read_manifest(out)
    if present.grown:
        raise UserError(
            f"--out: '{out}' was appended to: --append adds to it, --overwrite replaces it"
        )
    if not holds(settings, seen, present):
        raise UserError(
            f"--out: '{out}' holds a data set of other settings: choose another folder or --overwrite"
        )
    manifests.verify(out)
    return present


def holds(settings: Settings, seen: raw_files.Seen, present: Manifest) -> bool:
    """Whether a data set is what these settings make of the raw files; reads those that changed since."""
    then = dict(present.settings)
    known = then.pop("raw_sha256", {})
    looked = then.pop("raw_seen", {})
    then.pop(TIMES, None)
    same = (
        then == _recorded(settings, settings.horizon or present.horizon)
        and known.keys() == seen.keys()
    )
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
        **({} if settings.keep_short is None else {"keep_short": settings.keep_short}),
    }
