"""Lists a run's checkpoints, records which are the best, and removes old ones.

Only rank 0 changes the folder. The folder contains:

step-N            a complete checkpoint
step-N.partial    a checkpoint that is being written, or that was being written when the process was
                  killed
step-N.damaged    a checkpoint that was complete and has been damaged since; no command reads or
                  removes it
best.json         step, validation ndcg@10 and checksum of the best checkpoint; `before` has the
                  same values of the checkpoints that were the best before it, the newest first
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
from torchrec_priors.training.run.folder import BEST

log = logging.getLogger(__name__)

_METRIC = "ndcg@10"
_CHECKSUM = "checksum"
_REMEDY = "the train command of this run writes it again"
_MOST_DAMAGED = 1000  # damaged checkpoints of the same step that are kept

Best = dict[str, Any]


def checkpoint_name(step: int) -> str:
    """Returns the name of a checkpoint's folder."""
    return f"step-{step:08d}"


class CheckpointFolder:
    """The folder that contains a run's checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, step: int) -> Path:
        """Returns the folder of the checkpoint of a step, whether it exists or not."""
        return self.path / checkpoint_name(step)

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending."""
        # Names of partial and damaged checkpoints do not end in a number.
        folders = self.path.glob("step-*")
        return sorted(
            int(path.name[5:]) for path in folders if path.name[5:].isdigit() and path.is_dir()
        )

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint; None before the first evaluation.

        Raises:
            UserError: the best checkpoint no longer exists, or `best.json` is damaged.
        """
        bests = self._bests()
        if not bests:
            return None

        step: int = bests[0]["step"]
        # A run that has lost its best checkpoint must not look like a run that has none yet.
        if not self.place(step).is_dir():
            raise UserError(
                f"the best checkpoint '{self.place(step)}' is missing: put it back, or train again"
            )

        # An entry of an earlier version has no checksum and is accepted without a check.
        checksum = self._checksum(step)
        if checksum is not None and bests[0].get(_CHECKSUM, checksum) != checksum:
            raise UserError(
                f"'{self.path / BEST}' is damaged (it describes another checkpoint than "
                f"'{self.place(step)}'): {_REMEDY}"
            )
        return step

    def note_best(self, step: int, metric: float) -> None:
        """Records that from now on the checkpoint of `step` is the best."""
        # After a resume, the same step may be noted a second time.
        before = [best for best in self._bests() if best["step"] < step]
        self._write_bests([self._best(step, metric), *before])

    def go_back(self, step: int, best_step: int, metric: float) -> None:
        """Brings the folder back to its state at the step from which training resumes.

        Later checkpoints are removed from `best.json`, and partial checkpoints are deleted. If
        `best.json` is damaged, it is written again.

        Args:
            step: the step of the checkpoint that training resumes from.
            best_step: the step of the best checkpoint at that time; 0 if there was none.
            metric: the validation ndcg@10 of the best checkpoint.
        """
        for partial in self.path.glob("step-*.partial"):
            remove_leftover(partial)

        try:
            bests = [best for best in self._bests() if best["step"] <= step]
        except UserError as error:
            log.warning("%s: it is written again", str(error).split(": ")[0])
            bests = []

        # If the process was killed after a checkpoint was completed, but before `best.json` was
        # written, the entry of the best checkpoint is missing.
        if best_step and best_step not in (best["step"] for best in bests):
            before = [best for best in bests if best["step"] < best_step]
            bests = [self._best(best_step, metric), *before]
        self._write_bests([best for best in bests if self.place(best["step"]).is_dir()])

    def remove_old(self, keep_last: int, keep_best: int) -> None:
        """Removes all checkpoints except the newest and the best.

        Args:
            keep_last: the number of the newest checkpoints to keep.
            keep_best: the number of the best checkpoints to keep.
        """
        # A checkpoint may be among the newest and among the best.
        steps = self.steps()
        bests = self._bests()[:keep_best]
        kept = {*steps[-keep_last:], *(best["step"] for best in bests)}

        for step in set(steps) - kept:
            # The folder is renamed first, so that no command reads a checkpoint during its removal.
            partial = partial_of(self.place(step))
            remove_leftover(partial)
            self.place(step).rename(partial)
            remove_leftover(partial)

    def put_aside(self, step: int) -> Path:
        """Renames a damaged checkpoint; returns its new folder."""
        place = self.place(step)
        endings = ["", *(f"-{number}" for number in range(2, _MOST_DAMAGED))]
        places = (place.with_name(f"{place.name}.damaged{ending}") for ending in endings)
        aside = next(candidate for candidate in places if not candidate.exists())
        place.rename(aside)
        return aside

    def _bests(self) -> list[Best]:
        """Reads `best.json`: the best checkpoint, then those that were the best before it.

        The list is empty before the first evaluation.
        """
        file = self.path / BEST
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
        """Returns the entry of a checkpoint for `best.json`."""
        best: Best = {"step": step, _METRIC: metric}
        checksum = self._checksum(step)
        return best if checksum is None else best | {_CHECKSUM: checksum}

    def _checksum(self, step: int) -> str | None:
        """Returns one checksum for all files of a checkpoint; None if the files have no checksums.

        Checkpoints with the same tensors have the same checksum. So the file `.metadata`, which
        also contains a random id, is left out.
        """
        try:
            files = read_manifest(self.place(step))
        except (OSError, ValueError):
            return None  # loading the checkpoint will raise the error
        entries = sorted(
            (name, checksum.sha256) for name, checksum in files.items() if name != DCP_METADATA
        )
        return hashlib.sha256(repr(entries).encode()).hexdigest()

    def _is_noted(self, bests: list[Best]) -> bool:
        """Returns whether `best.json` contains exactly these entries."""
        try:
            return bests == self._bests()
        except UserError:
            return False

    def _write_bests(self, bests: list[Best]) -> None:
        """Writes `best.json`, if it changes; removes it if there are no entries."""
        if not bests:
            (self.path / BEST).unlink(missing_ok=True)
            return
        if self._is_noted(bests):
            return

        best, *before = bests
        values = dict(best)
        if before:
            values["before"] = before
        write_json(self.path / BEST, values)


def _read_best(values: dict[str, Any]) -> Best:
    """Converts an entry of `best.json`; raises an error if a value is missing or not a number."""
    best: Best = {"step": int(values["step"]), _METRIC: float(values[_METRIC])}
    if _CHECKSUM in values:
        best[_CHECKSUM] = str(values[_CHECKSUM])
    return best
