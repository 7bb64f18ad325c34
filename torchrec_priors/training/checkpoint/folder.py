"""Which checkpoints a run's folder holds, which of them is the best, and which are kept. Rank 0 alone changes anything.

step-N            whole
step-N.partial    being written, or left by a kill
step-N.damaged    what was whole and no longer is; nobody reads or removes it
best.json         step, validation ndcg@10 and checksum of the best; `before`: of those before it, the newest first
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import read_json, remove_leftover, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.training.checkpoint.files import DCP_METADATA, read_manifest

log = logging.getLogger(__name__)

_BEST = "best.json"
_METRIC = "ndcg@10"
_CHECKSUM = "checksum"
_REMEDY = "the train command of this run writes it anew"

Best = dict[str, Any]


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


class CheckpointFolder:
    """What there is, and what becomes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, step: int) -> Path:
        return self.path / checkpoint_name(step)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are in their place, ascending."""
        folders = self.path.glob("step-*")
        return sorted(
            int(path.name[5:]) for path in folders if path.name[5:].isdigit() and path.is_dir()
        )

    def best_step(self) -> int | None:
        """Of the best checkpoint; None where there is none.

        Raises:
            UserError: it is not there any more, or the note of which it is, is damaged.
        """
        bests = self._bests()
        if not bests:
            return None
        step: int = bests[0]["step"]
        if not self.place(step).is_dir():
            raise UserError(
                f"the best checkpoint '{self.place(step)}' is missing: put it back, or train again"
            )
        there = self._checksum(step)
        if there is not None and bests[0].get(_CHECKSUM, there) != there:
            raise UserError(
                f"'{self.path / _BEST}' is damaged (it is of another checkpoint than '{self.place(step)}'): {_REMEDY}"
            )
        return step

    def note_best(self, step: int, metric: float) -> None:
        """From now on the checkpoint of `step` is the best."""
        self._write_bests(
            [self._best(step, metric), *(best for best in self._bests() if best["step"] < step)]
        )

    def go_back(self, step: int, best_step: int, metric: float) -> None:
        """Training goes on from `step`, when the best was that of `best_step`: what came after does not count, nor what
        a kill has left unfinished. A note of the best that is damaged is written anew."""
        for partial in self.path.glob("step-*.partial"):
            remove_leftover(partial)
        try:
            bests = [best for best in self._bests() if best["step"] <= step]
        except UserError as error:
            log.warning("%s: it is written anew", str(error).split(": ")[0])
            bests = []
        if best_step and best_step not in (best["step"] for best in bests):
            bests = [
                self._best(best_step, metric),
                *(best for best in bests if best["step"] < best_step),
            ]
        self._write_bests([best for best in bests if self.place(best["step"]).is_dir()])

    def remove_old(self, keep_last: int, keep_best: int) -> None:
        """All but the newest and the best."""
        steps = self.steps()
        bests = self._bests()[:keep_best]
        kept = {*steps[-keep_last:], *(best["step"] for best in bests)}
        for step in set(steps) - kept:
            gone = self.place(step).with_name(
                f"{checkpoint_name(step)}.partial"
            )  # never seen as a part of one
            remove_leftover(gone)
            self.place(step).rename(gone)
            remove_leftover(gone)

    def put_aside(self, step: int) -> Path:
        """Renames a damaged checkpoint; returns where it is now."""
        place = self.place(step)
        names = (
            f"{place.name}.damaged{number}" for number in ("", *(f"-{n}" for n in range(2, 1000)))
        )
        aside = next(place.with_name(name) for name in names if not place.with_name(name).exists())
        place.rename(aside)
        return aside

    def _bests(self) -> list[Best]:
        """The newest, which is the best, first; none before the first evaluation."""
        file = self.path / _BEST
        if not file.exists():
            return []
        best = read_json(file, remedy=_REMEDY)
        try:
            return [_read_best(each) for each in (best, *best.get("before", []))]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"'{file}' is not what train writes ({type(error).__name__}: {error}): {_REMEDY}"
            ) from error

    def _best(self, step: int, metric: float) -> Best:
        best: Best = {"step": step, _METRIC: metric}
        checksum = self._checksum(step)
        return best if checksum is None else best | {_CHECKSUM: checksum}

    def _checksum(self, step: int) -> str | None:
        """Of a checkpoint's files, the same for the same tensors; None where there are no checksums."""
        try:
            files = read_manifest(self.place(step))
        except (OSError, ValueError):
            return None  # which is told when it is loaded
        held = sorted((name, found.sha256) for name, found in files.items() if name != DCP_METADATA)
        return hashlib.sha256(repr(held).encode()).hexdigest()

    def _is_noted(self, bests: list[Best]) -> bool:
        try:
            return bests == self._bests()
        except UserError:
            return False

    def _write_bests(self, bests: list[Best]) -> None:
        if not bests:
            (self.path / _BEST).unlink(missing_ok=True)
        elif not self._is_noted(bests):
            best, *before = bests
            write_json(self.path / _BEST, best | ({"before": before} if before else {}))


def _read_best(values: dict[str, Any]) -> Best:
    best: Best = {"step": int(values["step"]), _METRIC: float(values[_METRIC])}
    return best | ({_CHECKSUM: str(values[_CHECKSUM])} if _CHECKSUM in values else {})
