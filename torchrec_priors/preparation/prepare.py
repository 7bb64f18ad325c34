"""Prepares a data set from raw files.

The data set is built in a work folder next to the output folder. When it is complete, it is moved
to the output folder.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.common.files import remove_leftover
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.build import Build
from torchrec_priors.preparation.build.plain_types import plain
from torchrec_priors.preparation.build.split import TIMES, SplitBy
from torchrec_priors.preparation.build.summary import UNDERSTOOD
from torchrec_priors.preparation.build.work_folder import place_of, recover, set_aside, work_folder
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.inputs import CorpusInput, Input, TableInput
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.communities.prior import communities
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.table.description import TABLE, Table
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import Manifest

Report = Callable[[str], None]

# The folder in the work folder in which the data set is built.
MADE = "made"


@dataclass(frozen=True)
class Settings:
    """The settings that decide the content of a prepared data set.

    Attributes:
        dataset: the name of a corpus, or the path of a corpus file; not used for a table.
        raw: the folder of the raw files; not used for a table.
        horizon: the number of a user's next items that a model predicts (`E`). If None, the
            default of the corpus is used.
        seed: the seed of the permutation that assigns row ids to items.
        on_bad_row: whether bad rows are an error (`refuse`) or are left out and counted (`drop`).
        options: the options of the corpus, each as `key=value`.
        split: how the log is split into training, validation and test, by user or by time.
        keep_short: whether the interactions of users with short histories are kept for a later
            append. If None, they are kept unless the corpus has a `min_history`.
        table: tables to read instead of the raw files of a corpus. Its places must be local.
    """

    dataset: str = TABLE
    raw: Path = Path()
    horizon: int | None = None
    seed: int = 0
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    options: tuple[str, ...] = ()
    split: SplitBy = field(default_factory=SplitBy)
    keep_short: bool | None = None
    table: Table | None = None

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise UserError(f"--horizon must be at least 1, not {self.horizon}")

    @property
    def input(self) -> Input:
        """What the data set is prepared from."""
        if self.table is not None:
            return TableInput(self.table)
        return CorpusInput(self.dataset, self.raw, self.options)


def prepare(
    settings: Settings,
    out: Path,
    *,
    overwrite: bool = False,
    report: Report = lambda _: None,
    on: EngineChoice = EngineChoice(),
) -> Manifest:
    """Writes the data set to `out`. Does nothing if `out` already holds this data set.

    A preparation that was killed leaves a hidden work folder next to `out`. The same call then
    resumes from this folder.

    Args:
        on: the engine that computes. The content of the data set does not depend on it.

    Raises:
        UserError: the raw files are bad, the output folder holds something else, or no user is
            left.
    """
    out = out.absolute()
    # A mistake in the name of the corpus is reported before any file is changed.
    source = settings.input
    source.check()
    recover(out)
    seen = source.seen(ours(out))
    present = _already_prepared(settings, seen, out, overwrite)
    if present is not None:
        report(f"{out} already holds this data set")
        return present

    # Finished stages in the work folder can be used again only if all of these values are the same.
    # Otherwise the work folder is emptied first.
    made_for = {
        **_recorded(settings, settings.horizon),
        "raw": str(source.folder.absolute()),
        "seen": seen,
    }
    with (
        explaining(f"--out: cannot write '{out}'"),
        work_folder(out, {**made_for, "engine": on.name}, report) as work,
        on.start(work) as engine,
    ):
        # Raw files are hashed in the background while the engine works.
        hashing = raw_files.Checksums(source.folder.absolute(), seen, engine.journal)
        try:
            manifest = _build(settings, engine, hashing, on.memory, report)
        finally:
            hashing.stop()
        # `out` is not changed before the new data set is complete.
        move(work / MADE, out)

    return manifest


def move(made: Path, out: Path) -> None:
    """Moves a new data set to `out`. The data set that was there before is removed.

    If the process is killed between the two moves, nothing is left at `out`. `recover` then puts
    the old data set back.
    """
    old = set_aside(out)
    if out.exists():
        remove_leftover(old)
        out.replace(old)
    made.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def ours(out: Path) -> list[Path]:
    """Returns the folders that `prepare` itself writes for the output `out`.

    They may be inside the raw folder, but their files are not raw files.
    """
    return [out, place_of(out), set_aside(out)]


def holds(settings: Settings, seen: raw_files.Seen, present: Manifest) -> bool:
    """Returns whether a data set was prepared with these settings from these raw files.

    A raw file is read only if its size or modification time differs from the manifest.

    Args:
        settings: the settings to compare.
        seen: the raw files as they are now.
        present: the manifest of the data set.
    """
    recorded = dict(present.settings)
    known = recorded.pop("raw_sha256", {})
    seen_then = recorded.pop("raw_seen", {})
    # These are results of the preparation, not settings.
    recorded.pop(TIMES, None)
    recorded.pop(UNDERSTOOD, None)

    wanted = _recorded(settings, settings.horizon or present.horizon)
    if recorded != wanted or known.keys() != seen.keys():
        return False
    folder = settings.input.folder.absolute()
    return raw_files.checksums(folder, seen, known, seen_then) == known


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
    # This is set before `load`, because corpus files may leave out short histories while they read.
    engine.keeps_short = bool(settings.keep_short)
    loaded = settings.input.load(bad_rows, engine)
    corpus = plain(loaded.corpus, engine)

    horizon = settings.horizon or corpus.default_horizon
    # A corpus with a `min_history` leaves out nearly all users, so by default their interactions
    # are not kept.
    keep_short = settings.keep_short
    if keep_short is None:
        keep_short = corpus.min_history <= 1
    folder = engine.folder / MADE
    folder.mkdir(exist_ok=True)

    def recorded() -> dict[str, Any]:
        values = {
            **_recorded(settings, horizon),
            "raw_sha256": hashing.result(),
            "raw_seen": hashing.files,
        }
        if loaded.understood:
            values[UNDERSTOOD] = loaded.understood
        return values

    build = Build(
        engine, corpus, bad_rows, horizon, settings.split, settings.seed, keep_short, folder, report
    )
    manifest = build.run(recorded)

    # Communities are computed from the sequences, which have been written by now.
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
    # A data set that was appended to cannot result from one command, so settings are not compared.
    if present.grown:
        raise UserError(
            f"--out: '{out}' was appended to: --append adds to it, --overwrite replaces it"
        )
    if not holds(settings, seen, present):
        raise UserError(
            f"--out: '{out}' holds a data set with other settings:"
            " choose another folder or --overwrite"
        )
    manifests.verify(out)
    return present


def _recorded(settings: Settings, horizon: int | None) -> dict[str, Any]:
    """Returns the settings as the manifest records them, without those about the raw files."""
    # The order of the keys is that of earlier versions, whose manifests have a checksum.
    of_input = settings.input.recorded()
    options = of_input.pop("options", None)
    recorded: dict[str, Any] = {
        **of_input,
        "horizon": horizon,
        "seed": settings.seed,
        "on_bad_row": settings.on_bad_row,
    }

    # Defaults are not written, so that a new setting in a later version does not change existing
    # manifests.
    if options:
        recorded["options"] = options
    recorded |= settings.split.recorded()
    if settings.keep_short is not None:
        recorded["keep_short"] = settings.keep_short
    return recorded
