"""Checkpoints by `torch.distributed.checkpoint`: written beside training, checked before they are read.

A checkpoint holds the model, the states of the fused and the dense optimizer and the progress, best score included.
Everything else follows from the configuration, which lies in the run's folder, and the step: learning rates, the
position in the data, negatives and dropout come from (seed, step). Nothing in training draws from a global random
state, so there is none to be kept. A checkpoint loads on any number of ranks.
"""

import dataclasses
import logging
import shutil
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from torchrec_priors.common.files import remove_leftover
from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.settings.training import TrainingConfig
from torchrec_priors.training.build import Built
from torchrec_priors.training.checkpoint.check import flaw
from torchrec_priors.training.checkpoint.files import Writer
from torchrec_priors.training.checkpoint.folder import CheckpointFolder, checkpoint_name
from torchrec_priors.training.checkpoint.reader import Reader
from torchrec_priors.training.checkpoint.row_wise_state import in_saved_form
from torchrec_priors.training.checkpoint.staging import Staging
from torchrec_priors.training.optimizers import Optimizers

log = logging.getLogger(__name__)

_LONGEST_WRITE = timedelta(hours=1)  # for which ranks wait for one another


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
        return torch.tensor(
            [self.step, self.best, self.best_step, self.without_gain], dtype=torch.float64
        )

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> "Progress":
        step, best, best_step, without_gain = values.tolist()
        return cls(int(step), best, int(best_step), int(without_gain))


@dataclass(frozen=True)
class _Writing:
    """A checkpoint on its way.

    Attributes:
        failed: once it is over, why it is not in its place; None where it is.
    """

    step: int
    best: bool
    failed: "Future[str | None]"


class Checkpoints:
    """The checkpoints of a run's folder. Every rank must make one and call it alike."""

    def __init__(self, folder: Path, ranks: Ranks, settings: TrainingConfig | None = None) -> None:
        self.folder = CheckpointFolder(folder)
        self.ranks = ranks
        self.settings = settings or TrainingConfig()
        self._saved_step = 0  # the newest, be it on its way
        self._writing: _Writing | None = None
        self._lost: OutsideError | None = None  # the newest could not be written
        self._group: dist.ProcessGroup | None = None

    def save(self, built: Built, optimizers: Optimizers, progress: Progress, *, best: bool) -> None:
        """Writes what the model is now, or begins to: see `finish`. Waits for the checkpoint before.

        A checkpoint that cannot be written is logged, and the next one makes up for it; but not where it is the best.

        Raises:
            OutsideError: the checkpoint before, or this one where it is not written beside training, was the best so
                far and could not be written.
        """
        self._settle()
        if progress.step == self._saved_step:
            self._note(progress, best)
            dist.barrier(self.ranks.side)
            return
        self._saved_step = step = progress.step
        noted = dataclasses.replace(progress)
        writer = Writer(self.folder.place(step), lambda: self._note(noted, best))
        if self.ranks.leads:
            with suppress(OSError):  # then it cannot be written either, which all ranks will know
                remove_leftover(writer.partial)
        state = _state(built, optimizers, progress)
        failed = Future[str | None]()
        if self.settings.checkpoint_async:
            written = dcp.async_save(
                state, storage_writer=writer, async_stager=Staging(), process_group=self._own()
            )
            assert isinstance(written, Future), "staging is over when it returns"
            written.add_done_callback(
                lambda _: self._over(written, writer, failed)
            )  # in the thread that wrote
            self._writing = _Writing(step, best, failed)
            return
        done = Future[Any]()
        try:
            dcp.save(state, storage_writer=writer, process_group=self.ranks.side)
            done.set_result(None)
        except CheckpointException as error:
            done.set_exception(error)
        self._over(done, writer, failed)
        self._writing = _Writing(step, best, failed)
        self._settle()

    def finish(self) -> None:
        """Until the newest checkpoint is in its place.

        Raises:
            OutsideError: it could not be written.
        """
        self._settle()
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Until nothing is being written any more, however that ended."""
        if self._writing is not None:
            wait([self._writing.failed])

    @property
    def newest(self) -> str | None:
        """Name of the newest checkpoint in its place."""
        steps = self.folder.steps()
        return checkpoint_name(steps[-1]) if steps else None

    def resume(self, built: Built, optimizers: Optimizers) -> Progress | None:
        """Loads the newest checkpoint whose files are whole; None where there are no checkpoints. Newer ones, which are
        damaged, are put aside, which is logged.

        Raises:
            UserError: none is whole.
        """
        damaged: list[tuple[int, str]] = []
        steps = self._agreed_steps()
        while steps and (wrong := flaw(self.folder.place(steps[-1]), self.ranks)):
            damaged.append((steps.pop(), wrong))

        if not steps and damaged:
            what = "; ".join(f"{checkpoint_name(step)}: {wrong}" for step, wrong in damaged)
            raise UserError(
                f"'{self.folder.path}' has no checkpoint that is whole ({what}): put the files back, or remove the "
                "folder to train from the beginning"
            )
        if not steps:
            if self.ranks.leads:
                self.folder.go_back(0, 0, -1.0)
            dist.barrier(self.ranks.side)
            return None

        optimizers.make_state()
        state = _state(built, optimizers, Progress())
        place = self.folder.place(steps[-1])
        with in_saved_form(state, Reader(place).metadata):
            load(state, place, self.ranks)
        built.parallel.load_state_dict(state["model"])
        optimizers.all.load_state_dict(state["optimizers"])
        progress = Progress.from_tensor(state["progress"])

        if self.ranks.leads:
            for step, wrong in damaged:
                aside = self.folder.put_aside(step)
                log.warning(
                    "checkpoint %s is damaged (%s): going on from %s; kept as '%s'",
                    checkpoint_name(step), wrong, checkpoint_name(steps[-1]), aside,
                )  # fmt: skip
            self.folder.go_back(progress.step, progress.best_step, progress.best)
        dist.barrier(self.ranks.side)
        self._saved_step = progress.step
        return progress

    def load_best(self, built: Built) -> str:
        """Loads the weights of the best checkpoint; returns its name.

        Raises:
            UserError: the run has none, or its files are not what was written.
        """
        place = self.best_place("--run")
        state = {"model": built.parallel.state_dict()}
        load(state, place, self.ranks)
        built.parallel.load_state_dict(state["model"])
        return place.name

    def best_place(self, option: str) -> Path:
        """The best checkpoint's folder, whose files are whole.

        Raises:
            UserError: the run has none, or its files are not what was written; `option` is what named the run.
        """
        run = self.folder.path.parent
        step = self.best_step()
        if step is None:
            raise UserError(
                f"{option}: '{run}' has no best checkpoint yet: train until its first evaluation"
            )
        place = self.folder.place(step)
        wrong = flaw(place, self.ranks)
        if wrong:
            raise UserError(
                f"{option}: the best checkpoint '{place}' is damaged ({wrong}): put the file back, or train again"
            )
        return place

    def best_step(self) -> int | None:
        """Of the best checkpoint; None where there is none."""
        told = [self.folder.best_step()]
        self._from_rank_0(told)
        return told[0]

    def _agreed_steps(self) -> list[int]:
        told = [self.folder.steps()]
        self._from_rank_0(told)
        return told[0]

    def _from_rank_0(self, told: list[Any]) -> None:
        if self.ranks.world > 1:
            dist.broadcast_object_list(told, group_src=0, group=self.ranks.side)

    def _own(self) -> dist.ProcessGroup:
        """A group for the writing thread alone: on one that training uses, their collectives would be mixed up."""
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=_LONGEST_WRITE)
        return self._group

    def _note(self, progress: Progress, best: bool) -> None:
        """On rank 0, when the checkpoint is in its place."""
        if not self.ranks.leads:
            return
        if best:
            self.folder.note_best(progress.step, progress.best)
        self.folder.remove_old(self.settings.keep_last, self.settings.keep_best)

    def _over(self, written: "Future[Any]", writer: Writer, failed: "Future[str | None]") -> None:
        """When a checkpoint was written, or could not be: then nothing of it stays."""
        error = written.exception()
        if error is None:
            failed.set_result(None)
        elif isinstance(error, CheckpointException):  # the same on every rank
            if self.ranks.leads:
                shutil.rmtree(writer.partial, ignore_errors=True)
                log.warning(
                    "checkpoint %s could not be written: %s", writer.place.name, _reason(error)
                )
            failed.set_result(_reason(error))
        else:
            failed.set_exception(error)

    def _settle(self) -> None:
        """Waits for the checkpoint that is being written."""
        if self._writing is None:
            return
        writing = self._writing
        self._writing = None
        reason = writing.failed.result()
        self._lost = None
        if reason is None:
            return
        self._saved_step = 0
        self._lost = OutsideError(
            f"checkpoint {checkpoint_name(writing.step)} could not be written ({reason}): "
            "make room, or see to what it says, and the same command goes on from the one before"
        )
        if writing.best:
            raise self._lost


def load(state: dict[str, Any], place: Path, ranks: Ranks) -> None:
    """Fills `state` from a checkpoint's folder, whose files were found whole; every rank must call it.

    Raises:
        UserError: it cannot be read.
    """
    reader = Reader(place)
    try:
        dcp.load(state, storage_reader=reader, process_group=ranks.side)
    except (CheckpointException, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint '{place}' cannot be loaded ({reason}): remove it to use an older one"
        ) from error


def _state(built: Built, optimizers: Optimizers, progress: Progress) -> dict[str, Any]:
    return {
        "model": built.parallel.state_dict(),
        "optimizers": optimizers.all.state_dict(),
        "progress": progress.to_tensor(),
    }


def _reason(error: CheckpointException) -> str:
    """What the first of the ranks that failed met."""
    failure, _ = next(iter(error.failures.values()))
    if isinstance(failure, OSError) and failure.strerror:
        return f"{failure.strerror}: '{failure.filename}'" if failure.filename else failure.strerror
    return " ".join(str(failure).split())[:200]
