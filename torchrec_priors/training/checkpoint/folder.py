"""The checkpoints of a run's folder: which exist, which is the best, and which are kept.

Only rank 0 changes anything.

step-N            a whole checkpoint
step-N.partial    a checkpoint that is being written, or was when the process was killed
step-N.damaged    a checkpoint that was whole and no longer is; nobody reads or removes it
best.json         step, validation ndcg@10 and checksum of the best; in `before` the same of those
                  that were the best before it, the newest first
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json, remove_leftover, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.training.checkpoint.files import partial_of
from torchrec_priors.training.checkpoint.keys import DCP_METADATA
from torchrec_priors.training.checkpoint.manifest import read_manifest

log = logging.getLogger(__name__)

_BEST = "best.json"
_METRIC = "ndcg@10"
_CHECKSUM = "checksum"
_REMEDY = "the train command of this run writes it again"
_MOST_DAMAGED = 1000  # checkpoints of one step that are kept

Best = dict[str, Any]


def checkpoint_name(step: int) -> str:
    """Returns the name of a checkpoint's folder."""
    return f"step-{step:08d}"


class CheckpointFolder:
    """The folder with a run's checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, step: int) -> Path:
        """Returns the folder of a checkpoint, which need not exist."""
        return self.path / checkpoint_name(step)

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are in their place, ascending."""
        # A name that is not a number is that of a partial or a damaged one.
        folders = self.path.glob("step-*")
        return sorted(
            int(path.name[5:]) for path in folders if path.name[5:].isdigit() and path.is_dir()
        )

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint; None if there is none.

        Raises:
            UserError: that checkpoint no longer exists, or `best.json` is damaged.
        """
        bests = self._bests()
        if not bests:
            return None

        step: int = bests[0]["step"]
        # A checkpoint that is gone must not look like a run that has none yet.
        if not self.place(step).is_dir():
            raise UserError(
                f"the best checkpoint '{self.place(step)}' is missing: put it back, or train again"
            )

        # A note of an earlier version has no checksum, and is believed.
        checksum = self._checksum(step)
        if checksum is not None and bests[0].get(_CHECKSUM, checksum) != checksum:
            raise UserError(
                f"'{self.path / _BEST}' is damaged (it is of another checkpoint than "
                f"'{self.place(step)}'): {_REMEDY}"
            )
        return step

    def note_best(self, step: int, metric: float) -> None:
        """Records that from now on the checkpoint of `step` is the best."""
        # After a resume the same step may become the best again.
        before = [best for best in self._bests() if best["step"] < step]
        self._write_bests([self._best(step, metric), *before])

    def go_back(self, step: int, best_step: int, metric: float) -> None:
        """Brings the folder back to where training resumes.

        What came after `step` does not count, and what a kill has left unfinished is removed. A
        damaged `best.json` is written again.

        Args:
            step: the step of the checkpoint that training resumes from.
            best_step: the step of the best checkpoint at that time; 0 for none.
            metric: the metric of the best checkpoint.
        """
        for partial in self.path.glob("step-*.partial"):
            remove_leftover(partial)

        try:
            bests = [best for best in self._bests() if best["step"] <= step]
        except UserError as error:
            log.warning("%s: it is written again", str(error).split(": ")[0])
            bests = []

        # A kill between the move of a checkpoint and the note that it is the best loses the note.
        if best_step and best_step not in (best["step"] for best in bests):
            before = [best for best in bests if best["step"] < best_step]
            bests = [self._best(best_step, metric), *before]
        self._write_bests([best for best in bests if self.place(best["step"]).is_dir()])

    def remove_old(self, keep_last: int, keep_best: int) -> None:
        """Removes all checkpoints but the newest and the best."""
        # A checkpoint may be both among the newest and among the best.
        steps = self.steps()
        bests = self._bests()[:keep_best]
        kept = {*steps[-keep_last:], *(best["step"] for best in bests)}

        for step in set(steps) - kept:
            # Renamed first, so a reader never sees a part of a checkpoint under its name.
            partial = partial_of(self.place(step))
            remove_leftover(partial)
            self.place(step).rename(partial)
            remove_leftover(partial)

    def put_aside(self, step: int) -> Path:
        """Renames a damaged checkpoint; returns where it is now."""
        place = self.place(step)
        endings = ["", *(f"-{number}" for number in range(2, _MOST_DAMAGED))]
        places = (place.with_name(f"{place.name}.damaged{ending}") for ending in endings)
        aside = next(candidate for candidate in places if not candidate.exists())
        place.rename(aside)
        return aside

    def _bests(self) -> list[Best]:
        """Returns the newest, which is the best, first; none before the first evaluation."""
        file = self.path / _BEST
        if not file.exists():
            return []

        best = read_json(file, remedy=_REMEDY)
        try:
            return [_read_best(values) for values in (best, *best.get("before", []))]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"'{file}' is not what train writes ({type(error).__name__}: {error}): {_REMEDY}"
            ) from error

    def _best(self, step: int, metric: float) -> Best:
        best: Best = {"step": step, _METRIC: metric}
        checksum = self._checksum(step)
        return best if checksum is None else best | {_CHECKSUM: checksum}

    def _checksum(self, step: int) -> str | None:
        """Returns one checksum for all files of a checkpoint; None if they have none.

        It is the same for the same tensors: `.metadata`, which also holds a random id, is left out.
        """
        try:
            files = read_manifest(self.place(step))
        except (OSError, ValueError):
            return None  # the message comes when the checkpoint is loaded
        entries = sorted(
            (name, checksum.sha256) for name, checksum in files.items() if name != DCP_METADATA
        )
        return hashlib.sha256(repr(entries).encode()).hexdigest()

    def _is_noted(self, bests: list[Best]) -> bool:
        try:
            return bests == self._bests()
        except UserError:
            return False

    def _write_bests(self, bests: list[Best]) -> None:
        if not bests:
            (self.path / _BEST).unlink(missing_ok=True)
            return
        if self._is_noted(bests):
            return

        best, *before = bests
        values = dict(best)
        if before:
            values["before"] = before
        write_json(self.path / _BEST, values)


def _read_best(values: dict[str, Any]) -> Best:
    best: Best = {"step": int(values["step"]), _METRIC: float(values[_METRIC])}
    if _CHECKSUM in values:
        best[_CHECKSUM] = str(values[_CHECKSUM])
    return best
