"""Appends new raw files to a prepared data set.

A new data set with the old and the new interactions is built in a folder next to the old one. When
it is complete, it replaces the old one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.build import AppendBuild
from torchrec_priors.preparation.append.check import check_can_grow
from torchrec_priors.preparation.append.settings import Given, input_of, split_of
from torchrec_priors.preparation.append.state import State
from torchrec_priors.preparation.build.plain_types import plain
from torchrec_priors.preparation.build.work_folder import recover, work_folder
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.inputs import TableInput
from torchrec_priors.preparation.prepare import MADE, move, ours
from torchrec_priors.preparation.priors.add_prior import locked
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.table.fetch import fetched
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import Manifest, read_manifest

# This key in the manifest's settings lists the raw files of each append.
APPENDED = "appended"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Appended:
    """The result of an append.

    Attributes:
        manifest: the manifest of the data set after the append.
        messages: lines for users about priors that should be computed again.
        already: whether the data set already held the raw files, so that nothing was appended.
        understood: lines for users that say how tables were read.
    """

    manifest: Manifest
    messages: list[str] = field(default_factory=list)
    already: bool = False
    understood: list[str] = field(default_factory=list)


def append(
    raw: Path | None,
    out: Path,
    given: Given = Given(),
    *,
    on_bad_row: Literal["refuse", "drop"] = "refuse",
    report: Report = lambda _: None,
    on: EngineChoice = EngineChoice(),
) -> Appended:
    """Adds the interactions, users and items of raw files to the data set in `out`.

    The data set does not change until the append is complete. An append that was killed leaves a
    hidden work folder next to the data set. The same call then resumes from this folder.

    Args:
        raw: the folder of the new raw files; None for tables, which are in `given`.
        out: the folder of the data set.
        given: the settings that the user gave. They must be equal to those of the data set.
        on_bad_row: whether bad rows are an error (`refuse`) or are left out and counted (`drop`).
        on: the engine that computes. The content of the data set does not depend on it.

    Raises:
        UserError: there is no data set, it cannot grow, the raw files do not have its form, or the
            settings differ.
    """
    out = out.absolute()
    recover(out)
    if not manifests.is_data_set(out):
        raise UserError(
            f"--append: '{out}' is not a prepared data set: prepare it first, without --append"
        )

    # Settings are compared first, because this does not read any data.
    manifest = read_manifest(out)
    manifest.require_users("--append", out)
    source = input_of(manifest, raw, out, given)
    if isinstance(source, TableInput):
        source = replace(source, table=fetched(source.table, report))
    split = split_of(manifest, given)
    check_can_grow(manifest)
    seen = source.seen(ours(out))
    if not seen:
        raise UserError(f"--raw: there is no file in '{raw}'")
    folder = source.folder.absolute()
    if _holds(manifest, folder, seen):
        report(f"{out} already holds these raw files")
        return Appended(manifest, already=True)

    report("checking the data set")
    manifests.verify(out)
    # Finished stages in the work folder can be used again only if all of these values are the same.
    # Otherwise the work folder is emptied first.
    made_for = {
        "append_to": manifest.content_sha256,
        "options": source.recorded().get("options"),
        "on_bad_row": on_bad_row,
        "raw": str(folder),
        "seen": seen,
        "engine": on.name,
    }
    with (
        explaining(f"--out: cannot write '{out}'"),
        work_folder(out, made_for, report) as work,
        on.start(work) as engine,
    ):
        # A user with few interactions in the new files may have enough together with the old files.
        engine.keeps_short = True
        hashing = raw_files.Checksums(folder, seen, engine.journal)
        try:
            bad_rows = BadRows(on_bad_row)
            report("reading raw files")
            loaded = source.load(bad_rows, engine)
            corpus = plain(loaded.corpus, engine)
            rule = replace(split, least=corpus.min_history)
            state = State(engine, out, manifest)

            made_in = work / MADE
            made_in.mkdir(exist_ok=True)
            seed = manifest.settings["seed"]
            build = AppendBuild(engine, state, corpus, rule, bad_rows, seed, made_in, report)
            made = build.run(lambda: _settings(manifest, on_bad_row, hashing))
        finally:
            hashing.stop()

        # Another process may have added a prior to the data set in the meantime. The lock prevents
        # this between the check and the move.
        with locked(out):
            if read_manifest(out).content_sha256 != manifest.content_sha256:
                raise UserError(
                    f"--out: '{out}' was changed while it was appended to: run this again"
                )
            move(made_in, out)

    return Appended(made, build.messages, understood=loaded.understood)


def _holds(manifest: Manifest, raw: Path, seen: raw_files.Seen) -> bool:
    """Returns whether the data set already holds the content of all these files.

    Names do not matter. A raw file is read only if its size and modification time are not in the
    manifest.
    """
    recorded = [manifest.settings, *manifest.settings.get(APPENDED, [])]
    known: dict[str, str] = {}
    seen_then: dict[str, list[int]] = {}
    held: set[str] = set()
    for settings in recorded:
        known |= settings.get("raw_sha256", {})
        seen_then |= settings.get("raw_seen", {})
        held |= set(settings.get("raw_sha256", {}).values())
    return set(raw_files.checksums(raw, seen, known, seen_then).values()) <= held


def _settings(manifest: Manifest, on_bad_row: str, hashing: raw_files.Checksums) -> dict[str, Any]:
    """Returns the settings of the new manifest: the old settings and the appended raw files."""
    appended = {"raw_sha256": hashing.result(), "raw_seen": hashing.files}
    # If rows were allowed to be dropped in any of the steps, the manifest says `drop`.
    dropping = "drop" in (on_bad_row, manifest.settings["on_bad_row"])
    return {
        **manifest.settings,
        "on_bad_row": "drop" if dropping else "refuse",
        APPENDED: [*manifest.settings.get(APPENDED, []), appended],
    }
