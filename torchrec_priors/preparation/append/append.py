"""Appends new raw files to a prepared data set.

The data set that holds them, too, is built next to the old one and then takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.build import AppendBuild
from torchrec_priors.preparation.append.check import check_can_grow
from torchrec_priors.preparation.append.settings import Given, corpus_of, options_of, split_of
from torchrec_priors.preparation.append.state import State
from torchrec_priors.preparation.build.check import check
from torchrec_priors.preparation.build.plain_types import plain
from torchrec_priors.preparation.build.work_folder import recover, work_folder
from torchrec_priors.preparation.corpus import corpus_path
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.prepare import MADE, load, move, ours
from torchrec_priors.preparation.priors.add_prior import locked
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import Manifest, read_manifest

# Key in the manifest's settings: the raw files of each append.
APPENDED = "appended"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Appended:
    """The data set that has grown.

    Attributes:
        messages: lines for users about the parts that did not grow with it.
        already: whether it held the raw files before.
    """

    manifest: Manifest
    messages: list[str] = field(default_factory=list)
    already: bool = False


def append(
    raw: Path,
    out: Path,
    given: Given = Given(),
    *,
    on_bad_row: Literal["refuse", "drop"] = "refuse",
    report: Report = lambda _: None,
    on: EngineChoice = EngineChoice(),
) -> Appended:
    """Adds the interactions, users and items of raw files to the data set in `out`.

    The data set does not change until the end. An append that was killed leaves a hidden folder
    next to it; the same call resumes from it.

    Args:
        given: settings that must be those of the data set.
        on: the engine that computes; the content does not depend on it.

    Raises:
        UserError: no data set there, one that cannot grow, raw files of another form, other
            settings.
    """
    out = out.absolute()
    recover(out)
    if not manifests.is_data_set(out):
        raise UserError(
            f"--append: '{out}' is not a prepared data set: prepare it first, without --append"
        )

    # Settings first: they are compared without reading any data.
    manifest = read_manifest(out)
    dataset = corpus_of(manifest, given)
    options = options_of(manifest, dataset, given)
    split = split_of(manifest, given)
    check_can_grow(manifest)
    seen = raw_files.seen(raw, ours(out))
    if not seen:
        raise UserError(f"--raw: there is no file in '{raw}'")
    if _holds(manifest, raw.absolute(), seen):
        report(f"{out} already holds these raw files")
        return Appended(manifest, already=True)

    report("checking the data set")
    manifests.verify(out)
    # Everything that decides what stages leave: with other values the work folder starts empty.
    made_for = {
        "append_to": manifest.content_sha256,
        "options": options,
        "on_bad_row": on_bad_row,
        "raw": str(raw.absolute()),
        "seen": seen,
        "engine": on.name,
    }
    with (
        explaining(f"--out: cannot write '{out}'"),
        work_folder(out, made_for, report) as work,
        on.start(work) as engine,
    ):
        # A user who is short in the new files may be long with the old ones.
        engine.keeps_short = True
        hashing = raw_files.Checksums(raw.absolute(), seen, engine.journal)
        try:
            bad_rows = BadRows(on_bad_row)
            report("reading raw files")
            loaded = check(load(dataset, raw, bad_rows, engine, options), corpus_path(dataset))
            corpus = plain(loaded, engine)
            rule = replace(split, least=corpus.min_history)
            state = State(engine, out, manifest)

            folder = work / MADE
            folder.mkdir(exist_ok=True)
            seed = manifest.settings["seed"]
            build = AppendBuild(engine, state, corpus, rule, bad_rows, seed, folder, report)
            made = build.run(lambda: _settings(manifest, on_bad_row, hashing))
        finally:
            hashing.stop()

        # Priors may be added to the data set meanwhile, but not between this check and the move.
        with locked(out):
            if read_manifest(out).content_sha256 != manifest.content_sha256:
                raise UserError(
                    f"--out: '{out}' was changed while it was appended to: run this again"
                )
            move(folder, out)

    return Appended(made, build.messages)


def _holds(manifest: Manifest, raw: Path, seen: raw_files.Seen) -> bool:
    """Whether the data set holds all these files, by their content; their names may differ."""
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
    """The settings of the new manifest: those of the old one, and what was appended."""
    appended = {"raw_sha256": hashing.result(), "raw_seen": hashing.files}
    # Once rows were dropped, the data set is one of dropped rows.
    dropping = "drop" in (on_bad_row, manifest.settings["on_bad_row"])
    return {
        **manifest.settings,
        "on_bad_row": "drop" if dropping else "refuse",
        APPENDED: [*manifest.settings.get(APPENDED, []), appended],
    }
