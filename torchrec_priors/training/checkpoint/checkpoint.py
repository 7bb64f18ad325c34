"""Writes, checks and loads the checkpoints of a run, with `torch.distributed.checkpoint`.

A checkpoint contains the model, the states of both optimizers, and the progress, which includes the
best score (`keys.py`). Learning rates, the position in the data, negatives and dropout are not
saved, because they follow from the configuration and the step. Training draws nothing from a global
random state, so none is saved. A checkpoint can be loaded on any number of ranks.

    save      copy the state, if it is written while training continues    `staging.py`
              write the files and their checksums into `step-N.partial`    `files.py`
              rename the folder to `step-N`, which makes it a checkpoint   `files.py`
              note it if it is the best so far; remove old checkpoints     `folder.py`
    resume    find the newest checkpoint that is whole                     `check.py`
              load it, in the form in which it was saved                   `row_wise_state.py`
              rename newer ones, which are damaged; remove later           `folder.py`
              checkpoints from the list of the best ones
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
from torchrec_priors.training.built import Built
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
from torchrec_priors.training.run.folder import RunFolder

log = logging.getLogger(__name__)

_LONGEST_WRITE = timedelta(hours=1)  # ranks that write wait for each other at most this long


@dataclass(frozen=True)
class _Writing:
    """A checkpoint that is being written.

    Attributes:
        step: the checkpoint's step.
        best: whether it is the best checkpoint so far.
        failure: gets a result when writing has ended: the reason why writing failed, or None if the
            checkpoint is complete.
    """

    step: int
    best: bool
    failure: "Future[str | None]"


class Checkpoints:
    """Writes and loads the checkpoints of a run.

    Every rank must create a `Checkpoints` and call its methods in the same order.
    """

    def __init__(self, folder: Path, ranks: Ranks, settings: TrainingConfig | None = None) -> None:
        self.folder = CheckpointFolder(folder)
        self.ranks = ranks
        self.settings = settings or TrainingConfig()
        # The step of the newest checkpoint, which is perhaps still being written.
        self._saved_step = 0
        self._writing: _Writing | None = None
        # The error of the newest checkpoint, if it could not be written.
        self._newest_error: OutsideError | None = None
        self._group: dist.ProcessGroup | None = None

    def save(self, built: Built, optimizers: Optimizers, progress: Progress, *, best: bool) -> None:
        """Writes a checkpoint of the model as it is now, perhaps in the background.

        It first waits until the previous checkpoint is written. If a checkpoint cannot be written,
        this is logged and training continues, because the next checkpoint may succeed. Only the
        best checkpoint so far must not be lost, so if it cannot be written, an error is raised.

        Raises:
            OutsideError: the best checkpoint so far could not be written. This is either the
                previous checkpoint, or this one if it is not written in the background.
        """
        self._wait_for_writing()

        # A checkpoint of this step exists already, but an evaluation since then may have shown that
        # it is the best.
        if progress.step == self._saved_step:
            self._update_folder(progress, best)
            dist.barrier(self.ranks.side)
            return

        step = progress.step
        self._saved_step = step
        saved = dataclasses.replace(progress)  # training may change `progress` during the writing
        writer = Writer(self.folder.place(step), lambda: self._update_folder(saved, best))
        if self.ranks.leads:
            # If this fails, writing fails too, and that error reaches all ranks.
            with suppress(OSError):
                remove_leftover(writer.partial)
        # Every rank creates this folder when it begins to write. Without a barrier, rank 0 could
        # take a folder that another rank has just created for a leftover.
        dist.barrier(self.ranks.side)

        state = state_of(parts_of(built, optimizers, progress))
        failure = Future[str | None]()
        if self.settings.checkpoint_async:
            self._write_in_background(state, writer, failure)
            self._writing = _Writing(step, best, failure)
        else:
            self._write(state, writer, failure)
            self._writing = _Writing(step, best, failure)
            self._wait_for_writing()

    def finish(self) -> None:
        """Waits until the newest checkpoint is complete.

        Raises:
            OutsideError: the newest checkpoint could not be written.
        """
        self._wait_for_writing()
        if self._newest_error is not None:
            raise self._newest_error

    def close(self) -> None:
        """Waits until the writing of a checkpoint has ended, successfully or not."""
        # A failure is ignored here: the run ends, perhaps with an error that matters more.
        if self._writing is not None:
            wait([self._writing.failure])

    @property
    def newest(self) -> str | None:
        """The name of the newest complete checkpoint; None if there is none."""
        steps = self.folder.steps()
        return checkpoint_name(steps[-1]) if steps else None

    def resume(self, built: Built, optimizers: Optimizers) -> Progress | None:
        """Loads the newest checkpoint that is not damaged, and returns its progress.

        Damaged checkpoints that are newer are renamed, and a warning is logged. If there are no
        checkpoints, nothing is loaded and None is returned.

        Raises:
            UserError: all checkpoints are damaged, or a later release has written the newest.
        """
        # Checkpoints are checked from the newest on, until one is not damaged.
        damaged: list[tuple[int, str]] = []
        steps = self._agreed_steps()
        while steps:
            problem = flaw(self.folder.place(steps[-1]), self.ranks)
            if not problem:
                break
            damaged.append((steps.pop(), problem))

        # Training from the beginning would overwrite checkpoints that can perhaps be repaired.
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
            UserError: the run has no best checkpoint yet, or its files are damaged.
        """
        place = self.best_place("--run")

        # A model that is only read needs neither optimizers nor progress.
        state = {MODEL: built.parallel.state_dict()}
        load(state, place, self.ranks)
        built.parallel.load_state_dict(state[MODEL])
        return place.name

    def best_place(self, option: str) -> Path:
        """Checks the files of the best checkpoint, and returns its folder.

        Args:
            option: the option that named the run, for messages.

        Raises:
            UserError: the run has no best checkpoint yet, or its files are damaged.
        """
        step = self.best_step()
        if step is None:
            raise RunFolder(self.folder.path.parent).no_best_checkpoint(option)

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
        """Returns the steps of the checkpoints, the same on every rank."""
        steps: list[int] = self._from_rank_0(self.folder.steps())
        return steps

    def _from_rank_0(self, value: Any) -> Any:
        """Returns rank 0's value on all ranks.

        Ranks may see different states of a folder on a shared file system.
        """
        values = [value]
        if self.ranks.world > 1:
            dist.broadcast_object_list(values, group_src=0, group=self.ranks.side)
        return values[0]

    def _load_all(self, built: Built, optimizers: Optimizers, place: Path) -> Progress:
        """Loads the model and the optimizers from a checkpoint; returns its progress."""
        # AdamW creates its state in its first step, but a checkpoint can only be loaded into a
        # state that exists.
        optimizers.make_state()
        progress = Progress()
        parts = parts_in_format(parts_of(built, optimizers, progress), format_of(place))
        state = state_of(parts)

        metadata = Reader(place).metadata
        fit_progress(state, metadata)
        with in_saved_form(state, metadata):
            load(state, place, self.ranks)

        # `load` has filled tensors in place. Other values, such as the progress, are set here.
        for key, part in parts.items():
            part.load_state_dict(state[key])
        return progress

    def _write(self, state: State, writer: Writer, failure: "Future[str | None]") -> None:
        """Writes a checkpoint and waits until it is written."""
        # The result goes into a future, so that `_end_writing` handles both ways of writing.
        written = Future[Any]()
        try:
            dcp.save(state, storage_writer=writer, process_group=self.ranks.side)
            written.set_result(None)
        except CheckpointException as error:
            written.set_exception(error)
        self._end_writing(written, writer, failure)

    def _write_in_background(
        self, state: State, writer: Writer, failure: "Future[str | None]"
    ) -> None:
        """Copies the state and starts a thread that writes the copy."""
        written = dcp.async_save(
            state,
            storage_writer=writer,
            async_stager=Staging(),
            process_group=self._writing_group(),
        )
        assert isinstance(written, Future), "staging is over when it returns"
        # The callback runs in the thread that writes.
        written.add_done_callback(lambda _: self._end_writing(written, writer, failure))

    def _writing_group(self) -> dist.ProcessGroup:
        """Returns a process group that only the writing thread uses.

        If training used the same group, the collectives of both threads could be mixed up.
        """
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=_LONGEST_WRITE)
        return self._group

    def _update_folder(self, progress: Progress, best: bool) -> None:
        """Notes a complete checkpoint if it is the best; removes old ones; only on rank 0."""
        if not self.ranks.leads:
            return
        if best:
            self.folder.note_best(progress.step, progress.best)
        self.folder.remove_old(self.settings.keep_last, self.settings.keep_best)

    def _end_writing(
        self, written: "Future[Any]", writer: Writer, failure: "Future[str | None]"
    ) -> None:
        """Sets the result of `failure`; removes the files of a checkpoint that is incomplete."""
        error = written.exception()
        if error is None:
            failure.set_result(None)
            return

        # If one rank cannot write, all ranks get a `CheckpointException`. Any other error is a bug,
        # and `_wait_for_writing` raises it.
        if isinstance(error, CheckpointException):
            if self.ranks.leads:
                shutil.rmtree(writer.partial, ignore_errors=True)
                log.warning(
                    "checkpoint %s could not be written: %s", writer.place.name, _reason(error)
                )
            failure.set_result(_reason(error))
        else:
            failure.set_exception(error)

    def _wait_for_writing(self) -> None:
        """Waits for the checkpoint that is being written, if there is one.

        Raises:
            OutsideError: that checkpoint is the best so far and could not be written.
        """
        if self._writing is None:
            return
        writing = self._writing
        self._writing = None

        reason = writing.failure.result()
        self._newest_error = None
        if reason is None:
            return

        # The step counts as not saved, so that the next `save` writes even at the same step.
        self._saved_step = 0
        self._newest_error = OutsideError(
            f"checkpoint {checkpoint_name(writing.step)} could not be written ({reason}): make "
            "room or remove the cause, and the same command resumes from the one before"
        )
        if writing.best:
            raise self._newest_error


def load(state: State, place: Path, ranks: Ranks) -> None:
    """Loads a checkpoint into the tensors of `state`. Every rank must call it.

    Args:
        place: the checkpoint's folder; its files were checked before.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    # The files are not damaged, so this fails only if the model differs or the disk fails.
    reader = Reader(place)
    try:
        dcp.load(state, storage_reader=reader, process_group=ranks.side)
    except (CheckpointException, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint '{place}' cannot be loaded ({reason}): remove it to use an older one"
        ) from error


def _reason(error: CheckpointException) -> str:
    """Returns the error message of one of the ranks that failed."""
    failure, _ = next(iter(error.failures.values()))

    # For an error of the system, the user needs to know which file it was.
    if isinstance(failure, OSError) and failure.strerror:
        if failure.filename:
            return f"{failure.strerror}: '{failure.filename}'"
        return failure.strerror
    return " ".join(str(failure).split())[:200]
