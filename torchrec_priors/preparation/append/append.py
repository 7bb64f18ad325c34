"""New raw files -> a prepared data set that holds them, too, made beside the old one, whose place it then takes."""

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
from torchrec_priors.preparation.prepare import load, move, ours
from torchrec_priors.preparation.priors.add_prior import locked
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import Manifest, read_manifest

APPENDED = "appended"  # in the manifest's settings: raw files of each append

Report = Callable[[str], None]


@dataclass(frozen=True)
class Appended:
    """The data set that grew.

    Attributes:
        said: lines for people about what did not grow with it.
        already: whether it held the raw files before.
    """

    manifest: Manifest
    said: list[str] = field(default_factory=list)
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

    Until the end the data set stays as it is. An append that was killed leaves a hidden folder beside it; the same call
    goes on from there.

    Args:
        given: settings that must be those of the data set.
        on: the engine that computes; the content does not depend on it.

    Raises:
        UserError: no data set there, one that cannot grow, raw files of another form, settings that are others.
    """
    out = out.absolute()
    recover(out)
    if not manifests.is_data_set(out):
        raise UserError(
            f"--append: '{out}' is no prepared data set: prepare it first, without --append"
        )
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
        engine.keeps_short = True
        hashing = raw_files.Checksums(raw.absolute(), seen, engine.journal)
        try:
            bad_rows = BadRows(on_bad_row)
            report("reading raw files")
            loaded = check(load(dataset, raw, bad_rows, engine, options), corpus_path(dataset))
            corpus = plain(loaded, engine)
            rule = replace(split, least=corpus.min_history)
            state = State(engine, out, manifest)
            folder = work / _MADE
            folder.mkdir(exist_ok=True)
            seed = manifest.settings["seed"]
            build = AppendBuild(engine, state, corpus, rule, bad_rows, seed, folder, report)
            made = build.run(lambda: _settings(manifest, on_bad_row, hashing))
        finally:
            hashing.stop()
        with locked(out):
            if read_manifest(out).content_sha256 != manifest.content_sha256:
                raise UserError(
                    f"--out: '{out}' was changed while it was appended to: run this again"
                )
            move(folder, out)
    return Appended(made, build.said)


_MADE = "made"  # in the work folder, the data set


def _holds(manifest: Manifest, raw: Path, seen: raw_files.Seen) -> bool:
    """Whether all these files were taken in before."""
    taken = [manifest.settings, *manifest.settings.get(APPENDED, [])]
    known = {
        path: checksum for each in taken for path, checksum in each.get("raw_sha256", {}).items()
    }
    looked = {path: status for each in taken for path, status in each.get("raw_seen", {}).items()}
    found = raw_files.checksums(raw, seen, known, looked)
    return set(found.values()) <= {
        checksum for each in taken for checksum in each.get("raw_sha256", {}).values()
    }


def _settings(manifest: Manifest, on_bad_row: str, hashing: raw_files.Checksums) -> dict[str, Any]:
    taken = {"raw_sha256": hashing.result(), "raw_seen": hashing.files}
    dropping = "drop" in (on_bad_row, manifest.settings["on_bad_row"])
    return {
        **manifest.settings,
        "on_bad_row": "drop" if dropping else "refuse",
        APPENDED: [*manifest.settings.get(APPENDED, []), taken],
    }
