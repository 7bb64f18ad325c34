"""Prepares a data set in a store.

The data set is built in the cache's folder and then uploaded. The manifest is uploaded last.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import write_whole
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.summary import summary, understood
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.prepare import Report, Settings, holds, prepare
from torchrec_priors.preparation.raw import files as raw_files
from torchrec_priors.prepared import manifest as manifests
from torchrec_priors.prepared.manifest import Manifest
from torchrec_priors.prepared.opening import key_of, manifest_in
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.progress import amount
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Uri


def prepare_there(
    settings: Settings,
    out: Uri,
    *,
    overwrite: bool = False,
    report: Report = lambda _: None,
    on: EngineChoice = EngineChoice(),
) -> str:
    """Writes a data set to a store as `prepare` writes it to a folder; returns its summary.

    After a kill, the same call resumes from the files in the cache and in the store. Readers never
    find a part of a data set, because the manifest of a replaced data set is removed before its
    files. The files stay in the cache, so this machine need not download them again.

    Raises:
        UserError: for the same reasons as in `prepare`, or the store cannot be written.
        OutsideError: the store does not answer.
    """
    store = Store(out, "--out")
    store.require_writable()
    name = hashlib.sha256(str(out).encode()).hexdigest()[:32]
    # Only one process at a time prepares this output. The folder in the cache survives a kill.
    with default_cache().exclusive(f"out-{name}"):
        folder = default_cache().subfolder("out", name)
        present = manifest_in(store) if store.exists(manifests.FILE) else None
        seen = settings.input.seen(())

        if present is not None and not overwrite:
            if not holds(settings, seen, present):
                raise UserError(
                    f"--out: '{out}' holds a data set with other settings:"
                    " choose another folder or --overwrite"
                )
            report(f"{out} already holds this data set")
            text = "\n".join([*understood(present), summary(present)])
        else:
            upload = _Upload(store, folder, present)
            made = prepare(
                settings,
                upload.made,
                overwrite=_is_other(settings, seen, upload.made),
                report=report,
                on=on,
            )
            # The summary reads the files, so it is made before the upload moves them to the cache.
            text = "\n".join([*understood(made), summary(made, upload.made)])
            upload.run(made, report)

        shutil.rmtree(folder)
        return text


def _is_other(settings: Settings, seen: raw_files.Seen, folder: Path) -> bool:
    """Returns whether the folder holds a data set that an earlier call made with other settings."""
    return manifests.is_data_set(folder) and not holds(
        settings, seen, manifests.read_manifest(folder)
    )


class _Upload:
    """Uploads a data set.

    A file next to the data set lists the files that have been uploaded, so that a killed upload
    can resume.

    Attributes:
        made: the local folder in which the data set is built.
    """

    def __init__(self, store: Store, folder: Path, replaced: Manifest | None) -> None:
        self.made = folder / "made"
        self._store = store
        self._notes = folder / "uploaded.json"
        notes: dict[str, Any] = {"there": {}, "old": []}
        began = self._notes.exists()
        if began:
            notes = json.loads(self._notes.read_text(encoding="utf8"))

        # If the store has files, but no manifest, a killed upload may have left the files. They are
        # overwritten only if the notes of that upload exist.
        stored = store.files()
        if stored and replaced is None and not began:
            raise UserError(
                f"--out: '{store.uri}' holds something that is not a prepared data set:"
                " choose another folder"
            )

        # Files that have since been removed from the store are uploaded again.
        self._uploaded: dict[str, str] = {
            path: sha for path, sha in notes["there"].items() if path in stored
        }
        # A killed upload may have removed the manifest that lists the old files, so the notes also
        # list them.
        old = set(notes["old"])
        if replaced is not None:
            old |= {info.path for info in replaced.files}
        self._old: list[str] = sorted(old)

    def run(self, made: Manifest, report: Report) -> None:
        cache = default_cache()
        # The old manifest is removed first and the new one is uploaded last, so no reader finds a
        # mixture of old and new files.
        with cache.writable():
            self._note()
        self._store.remove(manifests.FILE)
        for path in set(self._old) - {info.path for info in made.files}:
            self._store.remove(path)

        for number, info in enumerate(made.files, 1):
            if self._uploaded.get(info.path) != info.sha256:
                report(
                    f"uploading {info.path} ({amount(info.bytes)}),"
                    f" file {number} of {len(made.files)}"
                )
                self._store.put(self.made / info.path, info.path)
                self._uploaded[info.path] = info.sha256
                with cache.writable():
                    self._note()
        self._store.put(self.made / manifests.FILE, manifests.FILE)

        # The upload is complete. The files are moved to the cache for readers on this machine.
        for info in made.files:
            cache.adopt(self.made / info.path, key_of(info))

    def _note(self) -> None:
        write_whole(self._notes, json.dumps({"there": self._uploaded, "old": self._old}))
