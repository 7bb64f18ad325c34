"""Checkpoints by `torch.distributed.checkpoint`: written during training, checked before loading.

A checkpoint holds the model, the states of the fused and the dense optimizer, and the progress with
the best score (`checkpoint.keys`). Everything else follows from the configuration, which is in the
run's folder, and from the step: learning rates, the position in the data, negatives and dropout
depend on (seed, step). Training draws nothing from a global random state, so none is saved. A
checkpoint loads on any number of ranks.

    save      copy the state, if it is written while training continues    `staging.py`
              write the files and their checksums into `step-N.partial`    `files.py`
              rename the folder to `step-N`, which makes it a checkpoint   `files.py`
              note it if it is the best so far; remove old checkpoints     `folder.py`
    resume    find the newest checkpoint that is whole                     `check.py`
              load it, in the form in which it was saved                   `row_wise_state.py`
              rename newer ones, which are damaged; forget what was        `folder.py`
              noted after it
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
from torchrec_priors.training.checkpoint.keys import (
    MODEL,
    Progress,
    State,
    fit_progress,
    parts_in_format,
    parts_of,
    state_of,
)
from torchrec_priors.training.checkpoint.manifest import format_of
from torchrec_priors.training.checkpoint.reader import Reader
from torchrec_priors.training.checkpoint.row_wise_state import in_saved_form
from torchrec_priors.training.checkpoint.staging import Staging
from torchrec_priors.training.optimizers import Optimizers

log = logging.getLogger(__name__)

_LONGEST_WRITE = timedelta(hours=1)  # for which ranks wait for each other


@dataclass(frozen=True)
class _Writing:
    """A checkpoint that is being written.

    Attributes:
        step: its step.
        best: whether it is the best so far.
        failed: gets its result when writing has ended: why the checkpoint is not in its place, or
            None if it is.
    """

    step: int
    best: bool
    failed: "Future[str | None]"


class Checkpoints:
    """The checkpoints of a run's folder.

    Every rank must create one and make the same calls.
    """

    def __init__(self, folder: Path, ranks: Ranks, settings: TrainingConfig | None = None) -> None:
        self.folder = CheckpointFolder(folder)
        self.ranks = ranks
        self.settings = settings or TrainingConfig()
        self._saved_step = 0  # step of the newest checkpoint, which may still be being written
        self._writing: _Writing | None = None
        self._lost: OutsideError | None = None  # set if the newest could not be written
        self._group: dist.ProcessGroup | None = None

    def save(self, built: Built, optimizers: Optimizers, progress: Progress, *, best: bool) -> None:
        """Writes the model as it is now, or begins to (see `finish`).

        Waits for the previous checkpoint first. A checkpoint that cannot be written is logged, and
        training continues to the next one, unless it is the best so far.

        Raises:
            OutsideError: the previous checkpoint, or this one if it is not written in the
                background, is the best so far and could not be written.
        """
        self._settle()

        # The model has not changed since the last checkpoint, but it may have become the best.
        if progress.step == self._saved_step:
            self._note(progress, best)
            dist.barrier(self.ranks.side)
            return

        step = progress.step
        self._saved_step = step
        noted = dataclasses.replace(progress)  # training changes `progress` while this is written
        writer = Writer(self.folder.place(step), lambda: self._note(noted, best))
        if self.ranks.leads:
            # If this fails, writing fails too, and then all ranks know.
            with suppress(OSError):
                remove_leftover(writer.partial)

        state = state_of(parts_of(built, optimizers, progress))
        failed = Future[str | None]()
        if self.settings.checkpoint_async:
            self._write_in_background(state, writer, failed)
            self._writing = _Writing(step, best, failed)
        else:
            self._write(state, writer, failed)
            self._writing = _Writing(step, best, failed)
            self._settle()

    def finish(self) -> None:
        """Waits until the newest checkpoint is in its place.

        Raises:
            OutsideError: it could not be written.
        """
        self._settle()
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Waits until nothing is being written any more, successfully or not."""
        # The result is not looked at: the run ends, perhaps by an error that matters more.
        if self._writing is not None:
            wait([self._writing.failed])

    @property
    def newest(self) -> str | None:
        """The name of the newest checkpoint in its place."""
        steps = self.folder.steps()
        return checkpoint_name(steps[-1]) if steps else None

    def resume(self, built: Built, optimizers: Optimizers) -> Progress | None:
        """Loads the newest checkpoint that is not damaged; None if there are no checkpoints.

        Newer checkpoints are damaged: they are put aside, and a warning is logged.

        Raises:
            UserError: all are damaged, or a later release has written the newest.
        """
        # From the newest to the first that is whole.
        damaged: list[tuple[int, str]] = []
        steps = self._agreed_steps()
        while steps:
            problem = flaw(self.folder.place(steps[-1]), self.ranks)
            if not problem:
                break
            damaged.append((steps.pop(), problem))

        # Training from the beginning would overwrite what can perhaps be repaired.
        if not steps and damaged:
            problems = "; ".join(f"{checkpoint_name(step)}: {problem}" for step, problem in damaged)
            raise UserError(
                f"'{self.folder.path}' has no checkpoint that is whole ({problems}): put the files "
                "back, or remove the folder to train from the beginning"
            )
        if not steps:
            if self.ranks.leads:
                self.folder.go_back(0, 0, -1.0)
            dist.barrier(self.ranks.side)
            return None

        progress = self._load_all(built, optimizers, self.folder.place(steps[-1]))

        # Nothing in the folder is changed until loading has succeeded.
        if self.ranks.leads:
            for step, problem in damaged:
                aside = self.folder.put_aside(step)
                log.warning(
                    "checkpoint %s is damaged (%s): resuming from %s; kept as '%s'",
                    checkpoint_name(step),
                    problem,
                    checkpoint_name(steps[-1]),
                    aside,
                )
            self.folder.go_back(progress.step, progress.best_step, progress.best)
        dist.barrier(self.ranks.side)

        self._saved_step = progress.step
        return progress

    def load_best(self, built: Built) -> str:
        """Loads the weights of the best checkpoint; returns its name.

        Raises:
            UserError: the run has none, or its files are damaged.
        """
        place = self.best_place("--run")

        # Reading a model needs neither optimizers nor progress.
        state = {MODEL: built.parallel.state_dict()}
        load(state, place, self.ranks)
        built.parallel.load_state_dict(state[MODEL])
        return place.name

    def best_place(self, option: str) -> Path:
        """Returns the folder of the best checkpoint, whose files are not damaged.

        Args:
            option: the option that named the run, for messages.

        Raises:
            UserError: the run has none, or its files are damaged.
        """
        run = self.folder.path.parent
        step = self.best_step()
        if step is None:
            raise UserError(
                f"{option}: '{run}' has no best checkpoint yet: train until its first evaluation"
            )

        place = self.folder.place(step)
        problem = flaw(place, self.ranks)
        if problem:
            raise UserError(
                f"{option}: the best checkpoint '{place}' is damaged ({problem}): "
                "put the file back, or train again"
            )
        return place

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint; None if there is none."""
        step: int | None = self._from_rank_0(self.folder.best_step())
        return step

    def _agreed_steps(self) -> list[int]:
        steps: list[int] = self._from_rank_0(self.folder.steps())
        return steps

    def _from_rank_0(self, value: Any) -> Any:
        """Returns rank 0's value on all ranks: they may see a shared folder in different states."""
        values = [value]
        if self.ranks.world > 1:
            dist.broadcast_object_list(values, group_src=0, group=self.ranks.side)
        return values[0]

    def _load_all(self, built: Built, optimizers: Optimizers, place: Path) -> Progress:
        """Fills the model and the optimizers from a checkpoint; returns its progress."""
        # AdamW creates its state in its first step; a checkpoint can only fill what exists.
        optimizers.make_state()
        progress = Progress()
        parts = parts_in_format(parts_of(built, optimizers, progress), format_of(place))
        state = state_of(parts)

        metadata = Reader(place).metadata
        fit_progress(state, metadata)
        with in_saved_form(state, metadata):
            load(state, place, self.ranks)

        # Tensors were filled in place; the parts take over the rest, such as the progress.
        for key, part in parts.items():
            part.load_state_dict(state[key])
        return progress

    def _write(self, state: State, writer: Writer, failed: "Future[str | None]") -> None:
        # A future that is already done, so that both ways of writing end in `_over`.
        written = Future[Any]()
        try:
            dcp.save(state, storage_writer=writer, process_group=self.ranks.side)
            written.set_result(None)
        except CheckpointException as error:
            written.set_exception(error)
        self._over(written, writer, failed)

    def _write_in_background(
        self, state: State, writer: Writer, failed: "Future[str | None]"
    ) -> None:
        written = dcp.async_save(
            state,
            storage_writer=writer,
            async_stager=Staging(),
            process_group=self._writing_group(),
        )
        assert isinstance(written, Future), "staging is over when it returns"
        # The callback runs in the thread that writes.
        written.add_done_callback(lambda _: self._over(written, writer, failed))

    def _writing_group(self) -> dist.ProcessGroup:
        """Returns a group for the writing thread only.

        On a group that training uses, the collectives of both would be mixed up.
        """
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=_LONGEST_WRITE)
        return self._group

    def _note(self, progress: Progress, best: bool) -> None:
        """Updates the folder on rank 0, once the checkpoint is in its place."""
        if not self.ranks.leads:
            return
        if best:
            self.folder.note_best(progress.step, progress.best)
        self.folder.remove_old(self.settings.keep_last, self.settings.keep_best)

    def _over(self, written: "Future[Any]", writer: Writer, failed: "Future[str | None]") -> None:
        """Records how writing has ended; removes what was written of a checkpoint that failed."""
        error = written.exception()
        if error is None:
            failed.set_result(None)
            return

        # A rank that cannot write makes all ranks fail, with the same error. Any other error is a
        # bug, and `_settle` raises it.
        if isinstance(error, CheckpointException):
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

        # The next `save` must write again, even at the same step.
        self._saved_step = 0
        self._lost = OutsideError(
            f"checkpoint {checkpoint_name(writing.step)} could not be written ({reason}): make "
            "room or remove the cause, and the same command resumes from the one before"
        )
        if writing.best:
            raise self._lost


def load(state: State, place: Path, ranks: Ranks) -> None:
    """Fills `state` from a checkpoint's folder, whose files are not damaged.

    Every rank must call it.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    # The files were checked before, so this fails only if the model is another or the disk fails.
    reader = Reader(place)
    try:
        dcp.load(state, storage_reader=reader, process_group=ranks.side)
    except (CheckpointException, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint '{place}' cannot be loaded ({reason}): remove it to use an older one"
        ) from error


def _reason(error: CheckpointException) -> str:
    """Says what happened on the first of the ranks that failed."""
    failure, _ = next(iter(error.failures.values()))

    # An error of the system is shown with its file, which is what helps the user.
    if isinstance(failure, OSError) and failure.strerror:
        if failure.filename:
            return f"{failure.strerror}: '{failure.filename}'"
        return failure.strerror
    return " ".join(str(failure).split())[:200]
