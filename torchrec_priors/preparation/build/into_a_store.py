"""A prepared data set in a store: made in the cache's folder, then uploaded, its manifest last."""

import hashlib
import json
import shutil
from pathlib import Path

from torchrec_priors.common.files import write_whole
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.summary import summary
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
    """As `prepare`, in a store; what it says of the data set.

    What a kill leaves, in the cache and in the store, the same call goes on with. Readers never meet a part: a manifest
    that is replaced is gone before the files that it lists. The files stay in the cache, so that they need not
    come back.

    Raises:
        UserError: as `prepare`, or a store that cannot be written.
        OutsideError: a store that does not answer.
    """
    store = Store(out, "--out")
    store.require_writable()
    name = hashlib.sha256(str(out).encode()).hexdigest()[:32]
    with default_cache().alone(f"out-{name}"):
        folder = default_cache().subfolder("out", name)
        present = manifest_in(store) if store.exists(manifests.FILE) else None
        seen = raw_files.seen(settings.raw, ())
        if present is not None and not overwrite:
            if not holds(settings, seen, present):
                other = f"'{out}' holds a data set of other settings"
                raise UserError(f"--out: {other}: choose another folder or --overwrite")
            report(f"{out} already holds this data set")
            said = summary(present)
        else:
            upload = _Upload(store, folder, present)
            made = prepare(
                settings,
                upload.made,
                overwrite=_is_other(settings, seen, upload.made),
                report=report,
                on=on,
            )
            said = summary(made, upload.made)
            upload.run(made, report)
        shutil.rmtree(folder)
        return said


def _is_other(settings: Settings, seen: raw_files.Seen, folder: Path) -> bool:
    """Whether an earlier call has made a data set of other settings there."""
    return manifests.is_data_set(folder) and not holds(
        settings, seen, manifests.read_manifest(folder)
    )


class _Upload:
    """What is in the store already stands in a file beside the data set, so that a killed upload is gone on with.

    Attributes:
        made: where the data set is to be made.
    """

    def __init__(self, store: Store, folder: Path, replaced: Manifest | None) -> None:
        self.made = folder / "made"
        self._store = store
        self._notes = folder / "uploaded.json"
        began = self._notes.exists()
        notes = (
            json.loads(self._notes.read_text(encoding="utf8"))
            if began
            else {"there": {}, "old": []}
        )
        there = store.files()
        if there and replaced is None and not began:
            raise UserError(
                f"--out: '{store.uri}' holds something that is no prepared data set: choose another folder"
            )
        self._there: dict[str, str] = {
            path: sha for path, sha in notes["there"].items() if path in there
        }
        self._old: list[str] = sorted(
            {*notes["old"], *(info.path for info in (replaced.files if replaced else []))}
        )

    def run(self, made: Manifest, report: Report) -> None:
        cache = default_cache()
        with cache.writable():
            self._note()
        self._store.remove(manifests.FILE)
        for path in set(self._old) - {info.path for info in made.files}:
            self._store.remove(path)
        for number, info in enumerate(made.files, 1):
            if self._there.get(info.path) != info.sha256:
                report(
                    f"uploading {info.path} ({amount(info.bytes)}), file {number} of {len(made.files)}"
                )
                self._store.put(self.made / info.path, info.path)
                self._there[info.path] = info.sha256
                with cache.writable():
                    self._note()
        self._store.put(self.made / manifests.FILE, manifests.FILE)
        for info in made.files:
            cache.adopt(self.made / info.path, key_of(info))

    def _note(self) -> None:
        write_whole(self._notes, json.dumps({"there": self._there, "old": self._old}))
