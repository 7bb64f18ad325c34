"""Records the runs that a run's weights come from, and the interactions they were trained on.

A run may take its initial weights from another run, or vectors from an export of another run. The
other run is then an ancestor, and so are its own ancestors. If an ancestor was trained on the
target of a user, an evaluation on this target is not fair: the weights already contain it, although
the split of the data set says that it is held out.

So a run records the list of its ancestors in `data.json`. In `trained.parquet` it records the part
of each user's history that the run or one of its ancestors was trained on.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter, ValidationError

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import read_json
from torchrec_priors.data.histories import Split
from torchrec_priors.data.leaks import Leaks, leaks
from torchrec_priors.data.trained_part import (
    TrainedPart,
    pasts_of,
    read_trained_part,
    training_ends,
    write_trained_part,
)
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_schema
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.checkpoint.folder import CheckpointFolder, checkpoint_name
from torchrec_priors.training.run.folder import TRAINED, RunFolder
from torchrec_priors.training.run.origin import Ancestor

log = logging.getLogger(__name__)

EXPORT = "export.json"
# The key of the ancestors in the metadata of a Parquet file with vectors.
IN_PARQUET = b"torchrec_priors.ancestors"


@dataclass(frozen=True)
class Ancestry:
    """The ancestors of a run, and the interactions that they and the run were trained on.

    Attributes:
        ancestors: the ancestors, the nearest first.
        part: the parts of histories that the run and its ancestors were trained on.
    """

    ancestors: list[Ancestor]
    part: TrainedPart

    def leaks(self, data: PreparedData, split: Split, ranks: Ranks) -> Leaks | None:
        """Returns the targets of a split that ancestors were trained on; None without ancestors.

        Every rank must call it.
        """
        if not self.ancestors:
            return None

        # If it is unknown what an ancestor was trained on, this may include any target.
        before = None
        if all(ancestor.known for ancestor in self.ancestors):
            before = self.part.only(self.part.before_N)
        return leaks(before, data, split, share=ranks.share, total=ranks.total)

    def in_words(self) -> str:
        """Returns the name of one ancestor for a message.

        An ancestor that was trained with `--fit-all` is preferred, because it has seen all targets.
        """
        fitted = [ancestor for ancestor in self.ancestors if ancestor.fit_all]
        if fitted:
            return f"'{fitted[0].run}' (--fit-all)"
        return f"'{self.ancestors[0].run}'"


def new_ancestry(
    config: RunConfig, data: PreparedData, ranks: Ranks, source: RunFolder | None
) -> Ancestry:
    """Returns the ancestry of a new run. Every rank must call it.

    Args:
        source: the run that the initial weights come from; None if there is no such run.

    Raises:
        UserError: files of this run, or of the export that the vectors come from, are damaged.
    """
    sources = []
    if source is not None:
        sources.append(_of_run(source, ranks))
    if config.table.pretrained:
        sources.append(_of_vectors(Path(config.table.pretrained)))

    before = TrainedPart.together([ancestry.part.as_before() for ancestry in sources])
    part = _with_own(before, data, training_ends(data, config.training), ranks)
    ancestors = [ancestor for ancestry in sources for ancestor in ancestry.ancestors]
    return Ancestry(ancestors, part)


def read_ancestry(folder: RunFolder) -> Ancestry:
    """Reads the ancestry that a run recorded.

    Raises:
        UserError: files of the run are damaged.
    """
    origin = folder.origin()

    # An earlier version did not record ancestors. Only the paths of the run and of the vectors that
    # it started from are known.
    if origin.ancestors is None:
        config = folder.config()
        paths = [path for path in (origin.init_from, config.table.pretrained) if path]
        return Ancestry([Ancestor(run=path, known=False) for path in paths], TrainedPart.none())

    # A pushed run does not say which users it was trained on.
    if folder.was_pushed:
        return Ancestry(origin.ancestors, TrainedPart.none())

    folder.check_whole(folder.trained, origin)
    return Ancestry(origin.ancestors, read_trained_part(folder.trained))


def write_ancestry(ancestry: Ancestry, folder: RunFolder) -> None:
    """Writes `trained.parquet`; `RunFolder.record` writes the list of ancestors to `data.json`."""
    write_trained_part(folder.trained, ancestry.part)


def as_ancestors(folder: RunFolder, checkpoint: str, ancestry: Ancestry) -> list[Ancestor]:
    """Returns the ancestors of a run that starts from the run in `folder`.

    These are the run in `folder` and its ancestors.

    Args:
        checkpoint: the name of the checkpoint that the weights come from.
        ancestry: the ancestry of the run in `folder`.
    """
    config = folder.config("--init-from")
    origin = folder.origin()
    this_run = Ancestor(
        run=str(folder.path.absolute()),
        checkpoint=checkpoint,
        identity=folder.identity(),
        data_sha256=origin.content_sha256,
        fit_all=config.training.fit_all,
        known=origin.ancestors is not None and not folder.was_pushed,
    )
    return [this_run, *ancestry.ancestors]


def as_text(ancestors: list[Ancestor]) -> str:
    """Returns the ancestors as JSON, for the metadata of a file with vectors."""
    return json.dumps([asdict(ancestor) for ancestor in ancestors])


def _of_run(source: RunFolder, ranks: Ranks) -> Ancestry:
    """Returns the ancestry of a run that starts from `source`, before the new run is trained."""
    ancestry = read_ancestry(source)
    step = CheckpointFolder(source.checkpoints).best_step()
    checkpoint = "" if step is None else checkpoint_name(step)
    ancestors = as_ancestors(source, checkpoint, ancestry)
    if ancestors[0].known or len(ancestors) > 1:
        return Ancestry(ancestors, ancestry.part)

    # An earlier version did not record what `source` was trained on. If `source` has no ancestors
    # and its data set is unchanged, the data set still shows what this was.
    config, data = source.open(option="--init-from")
    if data.manifest.prepared_sha256 != source.origin().content_sha256:
        return Ancestry(ancestors, ancestry.part)
    part = _with_own(TrainedPart.none(), data, training_ends(data, config.training), ranks)
    return Ancestry([replace(ancestors[0], known=True)], part)


def _of_vectors(file: Path) -> Ancestry:
    """Returns the ancestry of a run that starts from a file of vectors.

    The vectors of an export come from a run, which is an ancestor. Other vectors, for example of
    texts, come from no run, so they bring no ancestors.
    """
    manifest = file.with_name(EXPORT)
    if manifest.is_file() and file.is_file():
        remedy = "export the run again, or name a copy of the vectors elsewhere"
        record = read_json(manifest, remedy=remedy)
        files = record.get("files", {})
        if isinstance(files, dict) and files.get(file.name) == sha256(file):
            return _of_export(manifest, record, files)

    # A file of vectors may have been copied without the other files of its export. Its metadata
    # then names the runs.
    try:
        metadata = read_schema(file).metadata or {}
    except (pa.ArrowException, OSError):
        return Ancestry([], TrainedPart.none())  # reading the vectors will raise the error
    if IN_PARQUET not in metadata:
        return Ancestry([], TrainedPart.none())
    ancestors = _parsed(metadata[IN_PARQUET].decode(), file)
    return Ancestry([replace(ancestor, known=False) for ancestor in ancestors], TrainedPart.none())


def _of_export(manifest: Path, record: dict[str, Any], files: dict[str, str]) -> Ancestry:
    """Returns the ancestry of a run that starts from the vectors of an export.

    Args:
        manifest: the file `export.json`.
        record: the content of this file.
        files: the checksums of the export's files, by name.
    """
    # An export of an earlier version names only its run.
    if "ancestors" not in record:
        run = str(record.get("run", manifest.parent))
        return Ancestry([Ancestor(run=run, known=False)], TrainedPart.none())

    ancestors = _parsed(json.dumps(record["ancestors"]), manifest)
    trained = manifest.with_name(TRAINED)
    if TRAINED not in files:
        unknown = [replace(ancestor, known=False) for ancestor in ancestors]
        return Ancestry(unknown, TrainedPart.none())
    if not trained.is_file() or sha256(trained) != files[TRAINED]:
        raise UserError(f"'{trained}' is missing or not as it was written: export the run again")
    return Ancestry(ancestors, read_trained_part(trained))


def _parsed(text: str, file: Path) -> list[Ancestor]:
    """Reads ancestors from JSON, which comes from `file`."""
    try:
        ancestors: list[Ancestor] = TypeAdapter(list[Ancestor]).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(
            f"'{file}': what it says about its run cannot be read: export the run again"
        ) from error
    return ancestors


def _with_own(
    before: TrainedPart, data: PreparedData, end_U: np.ndarray, ranks: Ranks
) -> TrainedPart:
    """Adds the part of each history that this run is trained on to the parts of its ancestors.

    An ancestor's part is left out if this run is trained on the same items of the same history.

    Args:
        before: the parts of the ancestors, the same on every rank.
        end_U: the number of items of each history that this run is trained on.
    """
    user_U = np.zeros(data.users, np.uint64)
    history_U = np.zeros(data.users, np.uint64)
    within_N = np.zeros(len(before), np.int32)

    for pasts in pasts_of(data, ranks.share):
        users = slice(pasts.first_user, pasts.first_user + len(pasts.user_U))
        own_end = end_U[users]
        user_U[users] = pasts.user_U
        history_U[users] = pasts.of_first(np.arange(len(pasts.user_U)), own_end)

        # A part of an ancestor can be left out if this run's part is at least as long and begins
        # with items of the same hash. If this run's part is shorter, the hash is computed over no
        # items, because the history may be shorter than the ancestor's part.
        user, index = pasts.matches(before)
        items = before.items_N[index].astype(np.int64)
        is_short = items <= own_end[user]
        hashed = pasts.of_first(user, np.where(is_short, items, 0))
        same = is_short & (hashed == before.history_N[index])
        within_N[index[same]] = 1

    # Each rank has read some of the users and has zeros for the others, so the sums are the values.
    user_U = _summed(user_U, ranks)
    history_U = _summed(history_U, ranks)
    within_N = ranks.total(torch.from_numpy(within_N)).numpy()

    own = TrainedPart(user_U, end_U.astype(np.int32), history_U, np.zeros(data.users, bool))
    return TrainedPart.together([before.only(within_N == 0), own.only(end_U > 0)])


def _summed(values: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Sums uint64 values over the ranks; at each index, at most one rank's value is not 0."""
    # torch cannot add uint64. As int64, a sum of one value and zeros keeps all bits.
    total = ranks.total(torch.from_numpy(values.view(np.int64)))
    summed: np.ndarray = total.numpy().view(np.uint64)
    return summed
