"""Which runs a run's weights come from, and what all of these were trained on.

A run that starts from another, or from another's exported vectors, knows what that one was trained on: targets that are
among it are not held out, whatever the data set's split says. So a run keeps the list of its ancestors in `data.json`,
and in `trained.parquet` the part of every user's history that it, or any of them, was trained on.
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
from torchrec_priors.config import RunConfig
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
from torchrec_priors.training.checkpoint.folder import CheckpointFolder, checkpoint_name
from torchrec_priors.training.run.folder import TRAINED, RunFolder
from torchrec_priors.training.run.origin import Ancestor

log = logging.getLogger(__name__)

EXPORT = "export.json"
IN_PARQUET = b"torchrec_priors.ancestors"  # key in the metadata of a file of vectors


@dataclass(frozen=True)
class Ancestry:
    """
    Attributes:
        ancestors: the nearest first.
        part: what the run and they were trained on.
    """

    ancestors: list[Ancestor]
    part: TrainedPart

    def leaks(self, data: PreparedData, split: Split, ranks: Ranks) -> Leaks | None:
        """What of a split ancestors were trained on; None where there are none. Every rank must call it."""
        if not self.ancestors:
            return None
        known = all(ancestor.known for ancestor in self.ancestors)
        before = self.part.only(self.part.before_N) if known else None
        return leaks(before, data, split, share=ranks.share, total=ranks.total)

    def in_words(self) -> str:
        """Who they are, for messages."""
        fitted = [one for one in self.ancestors if one.fit_all]
        named = (fitted or self.ancestors)[0]
        return f"'{named.run}'{' (--fit-all)' if named.fit_all else ''}"


def new_ancestry(
    config: RunConfig, data: PreparedData, ranks: Ranks, source: RunFolder | None
) -> Ancestry:
    """Of a run that begins, from `source` if any. Every rank must call it.

    Raises:
        UserError: files of the run or export that it starts from are damaged.
    """
    found = [] if source is None else [_of_run(source, ranks)]
    if config.table.pretrained:
        found.append(_of_vectors(Path(config.table.pretrained)))
    before = TrainedPart.together([one.part.as_before() for one in found])
    part = _with_own(before, data, training_ends(data, config.training), ranks)
    return Ancestry([ancestor for one in found for ancestor in one.ancestors], part)


def read_ancestry(folder: RunFolder) -> Ancestry:
    """What a run recorded.

    Raises:
        UserError: its files are damaged.
    """
    origin = folder.origin()
    if origin.ancestors is None:  # of an earlier version
        config = folder.config()
        came = [where for where in (origin.init_from, config.table.pretrained) if where]
        return Ancestry([Ancestor(run=where, known=False) for where in came], TrainedPart.none())
    folder.check_whole(folder.trained, origin)
    return Ancestry(origin.ancestors, read_trained_part(folder.trained))


def write_ancestry(ancestry: Ancestry, folder: RunFolder) -> None:
    """The part; `RunFolder.record` writes the list."""
    write_trained_part(folder.trained, ancestry.part)


def as_ancestors(folder: RunFolder, checkpoint: str, ancestry: Ancestry) -> list[Ancestor]:
    """What a run is to those that start from it: itself and its own ancestors."""
    config = folder.config("--init-from")
    origin = folder.origin()
    own = Ancestor(
        run=str(folder.path.absolute()),
        checkpoint=checkpoint,
        identity=folder.identity(),
        data_sha256=origin.content_sha256,
        fit_all=config.training.fit_all,
        known=origin.ancestors is not None,
    )
    return [own, *ancestry.ancestors]


def as_text(ancestors: list[Ancestor]) -> str:
    """JSON, for the metadata of a file of vectors."""
    return json.dumps([asdict(ancestor) for ancestor in ancestors])


def _of_run(source: RunFolder, ranks: Ranks) -> Ancestry:
    ancestry = read_ancestry(source)
    step = CheckpointFolder(source.checkpoints).best_step()
    ancestors = as_ancestors(source, "" if step is None else checkpoint_name(step), ancestry)
    if ancestors[0].known or len(ancestors) > 1:
        return Ancestry(ancestors, ancestry.part)

    config, data = source.open(
        option="--init-from"
    )  # of an earlier version, which its data may still tell
    if data.manifest.prepared_sha256 != source.origin().content_sha256:
        return Ancestry(ancestors, ancestry.part)
    part = _with_own(TrainedPart.none(), data, training_ends(data, config.training), ranks)
    return Ancestry([replace(ancestors[0], known=True)], part)


def _of_vectors(file: Path) -> Ancestry:
    """Of a file of vectors: those of an export are a run's, of others nothing is known or asked."""
    manifest = file.with_name(EXPORT)
    if manifest.is_file() and file.is_file():
        remedy = "export the run again, or name a copy of the vectors elsewhere"
        about = read_json(manifest, remedy=remedy)
        files = about.get("files", {})
        if isinstance(files, dict) and files.get(file.name) == sha256(file):
            return _of_export(manifest, about, files)
    try:
        metadata = read_schema(file).metadata or {}
    except (pa.ArrowException, OSError):
        return Ancestry([], TrainedPart.none())  # whoever reads the vectors says so
    if IN_PARQUET not in metadata:
        return Ancestry([], TrainedPart.none())
    ancestors = [replace(one, known=False) for one in _parsed(metadata[IN_PARQUET].decode(), file)]
    return Ancestry(ancestors, TrainedPart.none())


def _of_export(manifest: Path, about: dict[str, Any], files: dict[str, str]) -> Ancestry:
    if "ancestors" not in about:  # of an earlier version
        return Ancestry(
            [Ancestor(run=str(about.get("run", manifest.parent)), known=False)], TrainedPart.none()
        )
    ancestors = _parsed(json.dumps(about["ancestors"]), manifest)
    trained = manifest.with_name(TRAINED)
    if TRAINED not in files:
        return Ancestry([replace(one, known=False) for one in ancestors], TrainedPart.none())
    if not trained.is_file() or sha256(trained) != files[TRAINED]:
        raise UserError(f"'{trained}' is missing or not as it was written: export the run again")
    return Ancestry(ancestors, read_trained_part(trained))


def _parsed(text: str, file: Path) -> list[Ancestor]:
    try:
        ancestors: list[Ancestor] = TypeAdapter(list[Ancestor]).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(
            f"'{file}': what it says of its run cannot be read: export the run again"
        ) from error
    return ancestors


def _with_own(
    before: TrainedPart, data: PreparedData, end_U: np.ndarray, ranks: Ranks
) -> TrainedPart:
    """`before`, but for what lies within this run's own part of the same histories, and that part."""
    user_U, history_U = np.zeros((2, data.users), np.uint64)
    within_N = np.zeros(len(before), np.int32)
    for pasts in pasts_of(data, ranks.share):
        here = slice(pasts.first_user, pasts.first_user + len(pasts.user_U))
        everyone = np.arange(len(pasts.user_U))
        user_U[here], history_U[here] = pasts.user_U, pasts.of_first(everyone, end_U[here])

        place, of_before = pasts.matches(before)
        items = before.items_N[of_before].astype(np.int64)
        mine = items <= end_U[here][place]
        same = mine & (
            pasts.of_first(place, np.where(mine, items, 0)) == before.history_N[of_before]
        )
        within_N[of_before[same]] = 1

    user_U, history_U = (_summed(values, ranks) for values in (user_U, history_U))
    within_N = ranks.total(torch.from_numpy(within_N)).numpy()
    trained_U = end_U > 0
    own = TrainedPart(user_U, end_U.astype(np.int32), history_U, np.zeros(data.users, bool)).only(
        trained_U
    )
    return TrainedPart.together([before.only(within_N == 0), own])


def _summed(values: np.ndarray, ranks: Ranks) -> np.ndarray:
    """uint64 of all ranks, of which one at most has something at each place."""
    summed: np.ndarray = (
        ranks.total(torch.from_numpy(values.view(np.int64))).numpy().view(np.uint64)
    )
    return summed
