"""Writes a run as a folder that other people can load, and uploads it to the Hugging Face hub.

write the weights of the best checkpoint as safetensors      `training/checkpoint/weights.py`
copy what else serving reads, without paths of this machine
copy the data set without its users                          `without_users.py`
write the card of the model                                  `card.py`
load the folder, and compare its answers with those of the run
rename the folder, or upload it                              `upload.py`
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torchrec_priors.common.files import partial_of, remove_leftover
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.publishing.canary import Canary, CanaryRequest, ask
from torchrec_priors.publishing.files import checksum_of, copy_file
from torchrec_priors.publishing.push.card import card_of
from torchrec_priors.publishing.push.upload import check_login, upload
from torchrec_priors.publishing.push.without_users import copy_without_users
from torchrec_priors.remote.hub import (
    Repository,
    check_client,
    is_on_hub,
    repository_of,
)
from torchrec_priors.remote.uri import Place, place_of, refuse_uri
from torchrec_priors.serving.popular import Popularity
from torchrec_priors.serving.run import LoadedRun, load_run
from torchrec_priors.training.checkpoint.weights import write_weights
from torchrec_priors.training.run.folder import CONFIG, DATA, PATHS, SEEN, TRAINED, RunFolder
from torchrec_priors.training.run.in_a_store import local_run
from torchrec_priors.training.run.origin import write_origin
from torchrec_priors.training.run.pushed import (
    CARD,
    POPULARITY,
    Pushed,
    PushedFile,
    write_pushed,
)
from torchrec_priors.training.run.pushed import DATA as DATA_FOLDER

_TRIED = 8  # users whose histories are asked for, to compare the folder with the run


@dataclass(frozen=True)
class PushedRun:
    """What was pushed.

    Attributes:
        pushed: the content of `pushed.json`.
        place: the folder, or the address of the commit on the hub.
    """

    pushed: Pushed
    place: str


def push(
    run: Path | str,
    to: Path | str,
    *,
    license: str | None = None,
    private: bool = False,
    data: Place | str | None = None,
) -> PushedRun:
    """Writes a run as a folder that other people can load, or uploads this folder to the hub.

    Args:
        run: the folder of the run.
        to: a folder, which must be empty or not exist yet, or `hf://org/name[@branch]`.
        license: the license of the model, as the hub names it; None to leave it out of the card.
        private: whether a new repository on the hub is private.
        data: the folder or URI of the prepared data set, if it has moved since training.

    Raises:
        UserError: the run cannot be loaded or pushed, the folder exists, or the hub refuses.
        OutsideError: the folder cannot be written, or the hub does not answer.
    """
    check_client("--to")
    source = RunFolder(local_run(place_of(run, "--run")))
    _check(source)
    if is_on_hub(to):
        repository = repository_of(str(to), "--to")
        check_login(repository)
        with TemporaryDirectory(prefix="torchrec-priors-push-") as folder:
            out = Path(folder) / "run"
            pushed = _write(source, out, data, license, repository)
            return PushedRun(pushed, upload(out, repository, private=private))

    out = Path(to)
    refuse_uri(out, "--to")
    if private:
        raise UserError("--private: it is for a repository on the hub: name one, hf://ORG/NAME")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--to: '{out}' exists and is not empty: name another folder")
    partial = partial_of(out.absolute())
    with explaining(f"--to: cannot write '{out}'"):
        try:
            remove_leftover(partial)
            pushed = _write(source, partial, data, license, None, name=out.absolute().name)
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return PushedRun(pushed, str(out))


def _check(source: RunFolder) -> None:
    """Raises UserError if a run cannot be pushed."""
    config = source.config()
    if source.was_pushed:
        raise UserError(f"--run: '{source.path}' holds a pushed run already: copy the folder")
    if config.plain.name:
        raise UserError(
            f"--run: '{source.path}' is a plain baseline ({config.plain.name}), which has no "
            "weights to push"
        )
    own = config.own_files()
    if own:
        raise UserError(
            f"--run: '{source.path}' was trained with custom code ('{own[0]}'), which is not "
            "pushed, so nobody else could load it"
        )
    if config.encoder.has_llm or config.items.encoder:
        raise UserError(
            f"--run: '{source.path}' has a language model, which reads a folder of this machine, "
            "so nobody else could load it"
        )


def _write(
    source: RunFolder,
    out: Path,
    data: Place | str | None,
    license: str | None,
    repository: Repository | None,
    name: str = "",
) -> Pushed:
    """Writes the folder of a pushed run, and checks that it answers like the run."""
    out.mkdir(parents=True)
    with load_run(source.path, data) as loaded:
        loaded.data.manifest.require_users("push", loaded.data.folder)
        requests = _requests(loaded)
        expected = ask(loaded, requests)
        checkpoint = loaded.checkpoint
        _write_files(loaded, out)
        card = card_of(loaded, license, repository, name or "model")
        (out / CARD).write_text(card, encoding="utf8")

    files = {}
    for file in sorted(out.rglob("*")):
        if file.is_file() and file.name != CARD:
            checksum = checksum_of(file)
            files[file.relative_to(out).as_posix()] = PushedFile(checksum.bytes, checksum.sha256)
    pushed = Pushed(checkpoint, files)
    write_pushed(out, pushed)
    _compare(out, requests, expected)
    return pushed


def _write_files(loaded: LoadedRun, out: Path) -> None:
    """Writes all files except the card and `pushed.json`."""
    folder = loaded.folder
    write_weights(folder.checkpoints / loaded.checkpoint, out, loaded.ranks)
    for name in (CONFIG, PATHS, SEEN):
        if (folder.path / name).is_file():
            copy_file(folder.path / name, out / name)

    # Paths of this machine, and hashes of users, are nobody else's business. Without the hashes,
    # it is unknown what the ancestors were trained on.
    origin = folder.origin()
    ancestors = origin.ancestors
    if ancestors is not None:
        ancestors = [
            replace(ancestor, run=Path(ancestor.run).name, known=False) for ancestor in ancestors
        ]
    files = {name: checksum for name, checksum in origin.files.items() if name != TRAINED}
    write_origin(
        out / DATA,
        replace(origin, path=DATA_FOLDER, init_from=None, ancestors=ancestors, files=files),
    )

    copy_without_users(loaded.data, out / DATA_FOLDER, loaded.config.embedding.content)
    tree = loaded.model.tree
    if Popularity.needs_log(tree):
        (out / POPULARITY).parent.mkdir()
        loaded.path.popularity().write(out / POPULARITY)


def _requests(loaded: LoadedRun) -> list[CanaryRequest]:
    """Returns requests with the histories of some users, and one without a history."""
    requests = [CanaryRequest(history=[])]
    data: PreparedData = loaded.data
    for user in data.user_texts()[:_TRIED].to_pylist():
        items = loaded.find_user(user).items[-loaded.config.model.context :]
        history = loaded.catalogue.item_ids(items.tolist())
        requests.append(CanaryRequest(history=list(history)))
    return requests


def _compare(out: Path, requests: Sequence[CanaryRequest], expected: Canary) -> None:
    """Loads a pushed folder, and checks that its answers are those of the run.

    Raises:
        UserError: an answer differs.
    """
    with load_run(out) as loaded:
        answered = ask(loaded, requests)
    if answered.answers != expected.answers:
        raise UserError(
            f"the run does not answer without the users of its data set as it does with them, so "
            f"it cannot be pushed (compared: {len(requests)} requests)"
        )
