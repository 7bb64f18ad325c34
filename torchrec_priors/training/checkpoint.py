"""Checkpoints by `torch.distributed.checkpoint`: written beside their place, moved there when whole.

A checkpoint holds model, optimizers and progress; data position, learning rates, dropout and negatives follow from the
step. It loads on any number of ranks.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from torchrec_priors.errors import UserError
from torchrec_priors.files import write_whole
from torchrec_priors.training.build import Built, Optimizers
from torchrec_priors.training.process import Ranks

_BEST = "best.json"
_KEPT = 2  # besides the best


@dataclass
class Progress:
    """Where training stands.

    Attributes:
        step: steps done.
        best: best validation ndcg@10 so far; -1 before the first evaluation.
        best_step: steps done then.
        without_gain: evaluations since.
    """

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    without_gain: int = 0

    def to_tensor(self) -> torch.Tensor:
        return torch.tensor([self.step, self.best, self.best_step, self.without_gain], dtype=torch.float64)

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> "Progress":
        step, best, best_step, without_gain = values.tolist()
        return cls(int(step), best, int(best_step), int(without_gain))


class Checkpoints:
    """The checkpoints of a run's folder."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder, self.ranks = folder, ranks

    def save(self, built: Built, optimizers: Optimizers, progress: Progress, *, best: bool) -> None:
        """Every rank must call it. Older checkpoints are removed, but for the newest few and the best."""
        place = self.folder / checkpoint_name(progress.step)
        if not place.exists():
            partial = self.folder / f"{place.name}.partial"
            if self.ranks.leads:
                shutil.rmtree(partial, ignore_errors=True)
            dist.barrier(self.ranks.side)
            dcp.save(_state(built, optimizers, progress), checkpoint_id=partial, process_group=self.ranks.side)
            if self.ranks.leads:
                partial.replace(place)
        if self.ranks.leads:
            if best:
                best_so_far = {"step": progress.step, "ndcg@10": progress.best}
                write_whole(self.folder / _BEST, json.dumps(best_so_far) + "\n")
            self._remove_old()
        dist.barrier(self.ranks.side)

    def resume(self, built: Built, optimizers: Optimizers) -> Progress | None:
        """Loads the newest whole checkpoint; None where there is none."""
        steps = self._steps()
        if not steps:
            return None
        optimizers.make_state()
        state = _state(built, optimizers, Progress())
        load(state, self.folder / checkpoint_name(steps[-1]), self.ranks)
        built.parallel.load_state_dict(state["model"])
        optimizers.all.load_state_dict(state["optimizers"])
        return Progress.from_tensor(state["progress"])

    def load_best(self, built: Built) -> str:
        """Loads the weights of the best checkpoint; returns its name.

        Raises:
            UserError: the run has none.
        """
        place = self.best_place("--run")
        state = {"model": built.parallel.state_dict()}
        load(state, place, self.ranks)
        built.parallel.load_state_dict(state["model"])
        return place.name

    def best_place(self, option: str) -> Path:
        """The best checkpoint's folder.

        Raises:
            UserError: the run has none; `option` is what named it.
        """
        step = self.best_step()
        if step is None:
            raise UserError(
                f"{option}: '{self.folder.parent}' has no best checkpoint yet: train until its first evaluation"
            )
        return self.folder / checkpoint_name(step)

    def best_step(self) -> int | None:
        try:
            step = int(json.loads((self.folder / _BEST).read_text())["step"])
        except (OSError, ValueError, KeyError):
            return None
        return step if step in self._steps() else None

    def _steps(self) -> list[int]:
        """Steps of whole checkpoints, ascending."""
        folders = self.folder.glob("step-*")
        return sorted(
            int(path.name[5:]) for path in folders if path.name[5:].isdigit() and (path / ".metadata").is_file()
        )

    def _remove_old(self) -> None:
        kept = {self.best_step(), *self._steps()[-_KEPT:]}
        for step in set(self._steps()) - kept:
            shutil.rmtree(self.folder / checkpoint_name(step), ignore_errors=True)


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def _state(built: Built, optimizers: Optimizers, progress: Progress) -> dict[str, Any]:
    return {
        "model": built.parallel.state_dict(),
        "optimizers": optimizers.all.state_dict(),
        "progress": progress.to_tensor(),
    }


def load(state: dict[str, Any], place: Path, ranks: Ranks) -> None:
    """Fills `state` from a checkpoint's folder; every rank must call it.

    Raises:
        UserError: it cannot be read.
    """
    try:
        dcp.load(state, checkpoint_id=place, process_group=ranks.side)
    except (CheckpointException, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint '{place}' cannot be loaded ({reason}): remove it to use an older one") from error
