"""The training loop: it takes steps, evaluates, writes checkpoints, resumes and stops early.

    start     build the model; load the newest checkpoint, or initial values   `start.py`
              write the files that describe the run
    repeat    train on the batches up to the next evaluation                   `_train`
                  after each: log, stop if there was a signal, save if due     `_train_on`
              evaluate; save if it is the best so far, or if due               `_evaluate`
              (`schedule.py` says when to evaluate, and when to stop)
    end       write the last checkpoint and `summary.json`                     `_finish`

"Repeat" ends with the last step, or when `training.patience` evaluations in a row brought no better
result.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Any

import torch

from torchrec_priors.common.files import write_json
from torchrec_priors.data.batch import Batch
from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import StoppedError
from torchrec_priors.metrics.evaluation import evaluate
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.ranks.roll_call import lost_ranks
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.callbacks import Callbacks, Evaluation, Saved
from torchrec_priors.training.checkpoint.checkpoint import checkpoint_name
from torchrec_priors.training.divergence import diverged
from torchrec_priors.training.doubtful import doubts
from torchrec_priors.training.logs import Logs
from torchrec_priors.training.observers import Observers
from torchrec_priors.training.pace import Pace
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.log_lines import length_and_checksum
from torchrec_priors.training.schedule import Schedule
from torchrec_priors.training.start import start_run
from torchrec_priors.training.step import AbortedStepError, StepResult
from torchrec_priors.training.stop_request import StopRequest, asked_for
from torchrec_priors.training.summary import SELECTED_BY, parameters_of
from torchrec_priors.training.tracking.parameters import tracked_run
from torchrec_priors.training.tracking.tracking import Tracking

log = logging.getLogger(__name__)

# The number of steps after which ranks ask rank 0 again whether a checkpoint is due.
_ASK_EVERY = 5


def train(
    config: RunConfig,
    data: PreparedData,
    folder: RunFolder,
    ranks: Ranks,
    init_from: RunFolder | None = None,
    seen_by: Observers = Observers(),
) -> dict[str, Any]:
    """Trains or resumes a run; returns its summary, the same on every rank.

    Args:
        init_from: the run from which a new run takes its initial weights.
        seen_by: who sees the training, besides the run's folder.

    Raises:
        DivergedError: the loss or a gradient is not finite, or the loss is too large.
        StoppedError: a signal asked the run to stop; everything is saved.
        LostRanksError: other ranks are stuck or have ended.
    """
    run = None
    ranks.where.remedy = "run the same command again to resume"
    try:
        run = _Run(config, data, folder, ranks, init_from, seen_by)
        summary = run.go()
    except BaseException as error:
        lost = lost_ranks(error, ranks.meeting)
        if lost is not None:  # closing anything would wait for the lost ranks
            raise lost from error
        if run is not None:
            with suppress(OSError):  # a full disk was reported already
                run.close()
        raise
    run.close()
    return summary


class _Run:
    """A run in training.

    Attributes:
        config, data, folder, ranks: as for `train`.
        trainer: the model, its optimizers and its batches.
        built: the trainer's model.
        checkpoints: the checkpoints in the run's folder.
        progress: the number of completed steps, and the best evaluation so far.
        schedule: when to evaluate, and when to end.
        leaks: the validation targets that ancestors of this run were trained on; None if the run
            trains on all interactions (`fit_all`) or has no ancestors.
        logs: the lines, the curves, and what the user sees of the progress.
        pace: the speed of the training.
        callbacks: the functions that a Python program has given; nothing on ranks other than 0.
        tracking: the trackers that the user has named; none on ranks other than 0.
        stop: the signals that this process has received.
        warned_of_reach: whether the warnings about targets out of reach were printed.
        started, saved_at: the times when this process started or resumed the run, and when the last
            checkpoint was written.
        seconds_waited: how long steps have waited for their batches.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        folder: RunFolder,
        ranks: Ranks,
        init_from: RunFolder | None,
        seen_by: Observers,
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        self.ranks = ranks
        self.stop = StopRequest()
        self.warned_of_reach = False
        started = start_run(config, data, folder, ranks, init_from, shown=seen_by.progress)
        self.trainer = started.trainer
        self.built = started.trainer.built
        self.checkpoints = started.checkpoints
        self.progress = started.progress
        self.leaks = started.leaks
        self.schedule = Schedule(config.training, self.progress)

        first_step = self.progress.step
        self.callbacks = seen_by.callbacks if ranks.leads else Callbacks()
        self.logs = Logs(
            folder.metrics,
            folder.events,
            ranks,
            steps=config.training.steps,
            first_step=first_step,
            evaluated=not self.schedule.evaluation_is_missing,
            shown=seen_by.progress,
        )
        self.tracking = Tracking()
        if ranks.leads and seen_by.trackers:
            known = tracked_run(config, data, folder, ranks.world, first_step)
            self.tracking = Tracking(seen_by.trackers, known)
        self.pace = Pace(self.trainer.epoch(), steps=config.training.steps, first_step=first_step)
        if ranks.world > 1:
            self.logs.say(self.built.plan.in_words())
        warning = started.warning_of_leaks()
        if warning is not None:
            self.logs.warn(warning)
        for doubt in doubts(config, self.built.model.tree):
            self.logs.warn(f"warning: {doubt}")
        if started.resumed:
            self.logs.say(f"resuming '{folder.path}' at step {first_step}")

        self.started = time.monotonic()
        self.saved_at = self.started
        self.seconds_waited = 0.0  # time that steps have waited for batches

    def go(self) -> dict[str, Any]:
        """Trains to the end of the schedule or until patience runs out; returns the summary."""
        with self.stop.listening():
            with closing(self.trainer.batches(self.progress.step)) as batches:
                self._train(batches)
            return self._finish()

    def close(self) -> None:
        self.checkpoints.close()
        self.logs.close()
        self.tracking.finish({})

    # Steps

    def _train(self, batches: Iterator[Batch]) -> None:
        """Takes steps and evaluates until the schedule has ended."""
        self.built.parallel.train()
        if self.schedule.evaluation_is_missing:
            self._evaluate()
        self.pace.resume()

        timed = self._timed(batches)
        while not self.schedule.ended:
            # A batch that was sent ahead would disturb the lookups of an evaluation. So the
            # pipeline is empty before each evaluation.
            steps = self.schedule.steps_to_evaluation()
            with closing(self.trainer.ready(timed, steps)) as until_evaluation:
                for batch in until_evaluation:
                    self._train_on(batch)
            if self.schedule.evaluation_is_due:
                self._evaluate()

    def _train_on(self, batch: Batch) -> None:
        """Takes a step, logs it, and saves if that is due or a signal was received."""
        settings = self.config.training
        progress = self.progress
        result = self._step(batch)
        progress.step += 1

        done = self.pace.after(progress.step, result)
        if progress.step % settings.log_every == 0:
            values = {
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "rate": settings.rate(progress.step - 1),
                "seconds": self._seconds(),
            }
            self._log(values)
        self.logs.advance(done, best=max(progress.best, 0.0))
        if self.callbacks.on_step is not None:
            self.callbacks.on_step(done)

        self._stop_if_signalled(result.counts)
        if not self.schedule.evaluation_is_due and self._checkpoint_is_due():
            self._save(best=False)
            self.pace.resume()

    def _log(self, values: dict[str, Any], prefix: str = "") -> None:
        """Logs values of the last step, with a prefix before their names."""
        step = self.progress.step
        self.logs.add(step, values, prefix)
        self.tracking.log(step, {f"{prefix}{name}": value for name, value in values.items()})

    def _step(self, batch: Batch) -> StepResult:
        """Takes a step; an aborted step ends the run with an error that names the checkpoint."""
        limit = self.config.training.largest_loss(self.data.items)
        try:
            return self.trainer.step(batch, flags=self.stop.flags(), max_loss=limit)
        except AbortedStepError as aborted:
            self.checkpoints.close()
            newest = self.checkpoints.newest
            checkpoint = None if newest is None else f"'{self.folder.checkpoints / newest}'"
            raise diverged(aborted, self.data, self.ranks, limit, checkpoint) from aborted

    def _stop_if_signalled(self, counts: list[float]) -> None:
        """Saves and ends the run if any rank has received a signal.

        Args:
            counts: for each signal, the number of ranks that have received it.
        """
        signal = asked_for(counts)
        if signal is None:
            return
        self._save(best=False)
        self.checkpoints.finish()
        where = f"step {self.progress.step} of {self.config.training.steps}"
        raise StoppedError(
            f"stopped by {signal.name} at {where}: run the same command again to resume", signal
        )

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches, and adds up the time that steps wait for them."""
        while True:
            self._say_where("the next batch")
            asked_at = time.monotonic()
            batch = next(batches)
            self.seconds_waited += time.monotonic() - asked_at
            yield batch

    # Evaluations

    def _evaluate(self) -> None:
        """Evaluates, reports the result, and saves if it is the best so far, or if that is due."""
        progress = self.progress
        result = self._validate()
        better = self.schedule.note_evaluation(result[SELECTED_BY])

        names = ("ndcg@10", "recall@10", "entropy@10")
        figures = ", ".join(f"{name} {result[name]:.4f}" for name in names)
        best_so_far = " (best so far)" if better else ""
        self.logs.say(f"step {progress.step}: validation {figures}{best_so_far}")
        if self.callbacks.on_evaluation is not None:
            self.callbacks.on_evaluation(Evaluation(progress.step, result, better))
        if better or self._checkpoint_is_due():
            self._save(best=better)
        self.pace.resume()

    def _validate(self) -> dict[str, Any]:
        """Computes and logs the metrics on validation; returns them by name."""
        self._say_where("evaluation")
        model = self.built.model
        # The index is built first, because this updates the set of items that `Reach` reads.
        index = self.built.fetch_index()
        reach = Reach.of(model, self.config.evaluation)
        result = evaluate(
            model,
            index,
            self.data,
            "validation",
            self.config.evaluation,
            share=self.ranks.share,
            device=self.ranks.device,
            columns=self.built.columns,
            by_group=(),  # logs no metrics by group: a prior may have hundreds of groups
            reach=reach,
            total=self.ranks.total,
            progress=self._evaluating,
        )

        if not self.warned_of_reach:
            self.warned_of_reach = True
            for warning in reach.warnings() if self.ranks.leads else ():
                log.warning("warning: on validation, %s", warning)
        leaked = {} if self.leaks is None else self.leaks.to_metrics()
        self._log(result | leaked, prefix="validation/")
        return result

    def _evaluating(self, batches: Iterable[Histories], count: int) -> Iterator[Histories]:
        """Yields the batches of an evaluation; a signal ends the run between two batches."""
        doing = f"step {self.progress.step}: evaluation"
        for batch in self.logs.evaluating(batches, count, doing):
            flags = torch.tensor(self.stop.flags(), dtype=torch.float32)
            self._stop_if_signalled(self.ranks.total(flags).tolist())
            yield batch

    # Checkpoints and the end

    def _checkpoint_is_due(self) -> bool:
        """Whether the last checkpoint is so old that another one is due; ranks agree on it."""
        if self.progress.step % _ASK_EVERY:
            return False
        waited = time.monotonic() - self.saved_at
        return self.ranks.agree(waited >= self.config.training.checkpoint_seconds)

    def _save(self, *, best: bool) -> None:
        self._say_where("checkpoint")
        self.logs.flush()
        self.checkpoints.save(self.built, self.trainer.optimizers, self.progress, best=best)
        self.saved_at = time.monotonic()
        if self.callbacks.on_checkpoint is not None:
            step = self.progress.step
            folder = self.folder.checkpoints / checkpoint_name(step)
            self.callbacks.on_checkpoint(Saved(step, folder, best))

    def _finish(self) -> dict[str, Any]:
        """Writes the last checkpoint and the summary."""
        fit_all = self.config.training.fit_all
        if fit_all:
            self.progress.best_step = self.progress.step
        self._save(best=fit_all)
        self.checkpoints.finish()

        summary = self._summary()
        if self.ranks.leads:
            self.logs.flush()
            origin = {
                "run_id": self.folder.origin().run_id,
                "log": length_and_checksum(self.folder.metrics),
            }
            write_json(self.folder.summary, summary | origin)
        self.tracking.finish(summary)
        return summary

    def _summary(self) -> dict[str, Any]:
        progress = self.progress
        model = self.built.model
        fit_all = self.config.training.fit_all
        stopped = "end of schedule"
        if self.schedule.out_of_patience:
            stopped = "no better evaluation"
        summary = {
            "steps": progress.step,
            "best_step": progress.best_step,
            f"validation/{SELECTED_BY}": None if fit_all else progress.best,
            "stopped": stopped,
            "paths": len(model.tree.paths),
            "parameters": parameters_of(model, self.config),
            "ranks": self.ranks.world,
            "seconds_of_last_start": self._seconds(),
            "seconds_waiting_for_data": round(self.seconds_waited, 3),
            "config_sha256": self.config.sha256(),
        }
        if self.leaks is not None:
            leaked = self.leaks.to_metrics()
            summary |= {f"validation/{name}": value for name, value in leaked.items()}
        return summary

    def _say_where(self, doing: str) -> None:
        """Notes what this rank is doing, for the message that appears if ranks are lost."""
        where = self.ranks.where
        where.doing = doing
        where.step = self.progress.step
        if doing == "the next batch":  # this batch is for the next step
            where.step += 1

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)
