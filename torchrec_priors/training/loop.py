"""The training loop: steps, evaluations, checkpoints, resume, early stop."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from torchrec_priors.common.files import write_json
from torchrec_priors.common.own_code import remember
from torchrec_priors.config import RunConfig
from torchrec_priors.data.batch import Batch
from torchrec_priors.data.histories import Histories
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.pretrained import take_pretrained
from torchrec_priors.errors import StoppedError
from torchrec_priors.metrics.evaluation import evaluate
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.ranks.roll_call import lost_ranks
from torchrec_priors.sampling.group_sampler import GroupSampler, OwnItems
from torchrec_priors.sampling.popularity import draw_weights
from torchrec_priors.training.admission import Admission
from torchrec_priors.training.batches import Batches
from torchrec_priors.training.build import Built, Optimizers, build_model, set_loss_weights
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints, Progress
from torchrec_priors.training.divergence import diverged
from torchrec_priors.training.logs import Logs
from torchrec_priors.training.pipeline import pipeline_of
from torchrec_priors.training.run.ancestry import new_ancestry, read_ancestry, write_ancestry
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.log_lines import length_and_checksum
from torchrec_priors.training.run.paths import write_paths
from torchrec_priors.training.run.seen import write_seen
from torchrec_priors.training.step import AbortedStepError, StepResult, step
from torchrec_priors.training.stop_request import StopRequest, asked_for
from torchrec_priors.training.warm_start import start_from

log = logging.getLogger(__name__)

SELECTED_BY = "ndcg@10"
_ASK_EVERY = 5  # steps between asking rank 0 whether a checkpoint is due


def train(
    config: RunConfig,
    data: PreparedData,
    folder: RunFolder,
    ranks: Ranks,
    init_from: RunFolder | None = None,
) -> dict[str, Any]:
    """Trains, or goes on with, a run; returns its summary, the same on every rank.

    Args:
        init_from: the run whose weights a fresh run starts from.

    Raises:
        DivergedError: the loss or a gradient is no finite number, or the loss is too large.
        StoppedError: a signal asked for it; everything is saved.
        LostRanksError: other ranks are stuck or gone.
    """
    run = None
    ranks.where.remedy = "started again, it goes on"
    try:
        run = _Run(config, data, folder, ranks, init_from)
        summary = run.go()
    except BaseException as error:
        lost = lost_ranks(error, ranks.meeting)
        if lost is not None:  # and nothing is closed, which would wait for them
            raise lost from error
        if run is not None:
            with suppress(OSError):  # a full disk has been told
                run.close()
        raise
    run.close()
    return summary


class _Run:
    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        folder: RunFolder,
        ranks: Ranks,
        init_from: RunFolder | None,
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        self.ranks = ranks
        self.stop = StopRequest()
        self.warned_of_reach = False
        remember(config.own_files())  # whoever trains has named them

        trained = folder.trained_on(config, data) if folder.was_started else None
        self.built = build_model(config, data, ranks, trained=trained)
        set_loss_weights(self.built, config)
        self.pipeline = pipeline_of(self.built, config.training.pipeline)
        self.optimizers = Optimizers(self.built, config)
        self.checkpoints = Checkpoints(folder.checkpoints, ranks, config.training)

        resumed = self.checkpoints.resume(self.built, self.optimizers)
        self.progress = resumed or Progress()
        if config.table.pretrained and not resumed:
            take_pretrained(
                Path(config.table.pretrained), self.built.own, self.built.model.item_rows, data
            )
        if init_from is not None and not resumed:
            start_from(init_from, self.built, config, data, ranks)

        managed = config.embedding.unseen == "managed"
        self.ancestry = (
            new_ancestry(config, data, ranks, init_from)
            if trained is None
            else read_ancestry(folder)
        )
        self.leaks = (
            None if config.training.fit_all else self.ancestry.leaks(data, "validation", ranks)
        )
        negatives = (Admission if managed else make_sampler)(self.built, config, data, ranks)
        self.batches = Batches(self.built, config, data, negatives)

        if ranks.leads:  # now that nothing is wrong with it
            if trained is None:
                folder.path.mkdir(parents=True, exist_ok=True)
                model = self.built.model
                depths = self.built.depths if self.built.model.baseline is None else None
                write_paths(folder.paths, model.tree, self.built.counted, depths)
                write_seen(folder.seen, self.built.seen_I)
                write_ancestry(self.ancestry, folder)
            folder.record(config, data, init_from, self.ancestry.ancestors)
            write_json(folder.sharding, self.built.plan.to_json())
        dist.barrier(ranks.side)

        self.logs = Logs(
            folder.metrics,
            folder.events,
            ranks,
            steps=config.training.steps,
            first_step=self.progress.step,
            evaluated=not self._evaluation_is_missing(),
        )
        self.logs.say(self.built.plan.in_words())
        self._say_leaks()
        if resumed:
            self.logs.say(f"resuming '{folder.path}' at step {self.progress.step}")
        self.started = self.saved_at = time.monotonic()
        self.waited = 0.0  # seconds, for batches

    def _say_leaks(self) -> None:
        said = None if self.leaks is None else self.leaks.in_words()
        if said is not None:
            self.logs.say(
                f"warning: validation is not held out from {self.ancestry.in_words()}, which this run comes from: "
                f"{said}. Early stopping and the best checkpoint go by figures that are too good"
            )

    def go(self) -> dict[str, Any]:
        with self.stop.listening():
            with closing(self.batches.after(self.progress.step)) as batches:
                self._train(batches)
            return self._finish()

    def close(self) -> None:
        self.checkpoints.close()
        self.logs.close()

    def _train(self, batches: Iterator[Batch]) -> None:
        settings = self.config.training
        progress = self.progress
        self.built.parallel.train()
        if self._evaluation_is_missing():
            self._evaluate()
        waited_for = self._waited_for(batches)
        while progress.step < settings.steps and not self._out_of_patience():
            with closing(self.pipeline.run(waited_for, self._steps_to_evaluation())) as until_then:
                for batch in until_then:
                    self._train_on(batch)
            if self._evaluation_is_due():
                self._evaluate()

    def _train_on(self, batch: Batch) -> None:
        settings = self.config.training
        progress = self.progress
        done = self._step(batch)
        progress.step += 1
        if progress.step % settings.log_every == 0:
            values = {
                "loss": done.loss,
                "gradient_norm": done.gradient_norm,
                "rate": settings.rate(progress.step - 1),
                "seconds": self._seconds(),
            }
            self.logs.add(progress.step, values)
        self.logs.advance(loss=f"{done.loss:.4f}", best=f"{max(progress.best, 0):.4f}")
        self._heed(done.counts)
        if not self._evaluation_is_due() and self._checkpoint_is_due():
            self._save(best=False)

    def _steps_to_evaluation(self) -> int:
        settings = self.config.training
        step = self.progress.step
        every = settings.steps if settings.fit_all else settings.evaluate_every
        return min(settings.steps, (step // every + 1) * every) - step

    def _step(self, batch: Batch) -> StepResult:
        limit = self.config.training.largest_loss(self.data.items)
        flags = self.stop.flags()
        try:
            return step(
                self.built,
                self.optimizers,
                batch,
                flags=flags,
                max_loss=limit,
                look_up=self.pipeline.look_up,
            )
        except AbortedStepError as undone:
            self.checkpoints.close()
            newest = self.checkpoints.newest
            checkpoint = None if newest is None else f"'{self.folder.checkpoints / newest}'"
            raise diverged(undone, self.data, self.ranks, limit, checkpoint) from undone

    def _heed(self, counts: list[float]) -> None:
        """Ends the run where any rank got a signal; `counts` is how many ranks got each."""
        by = asked_for(counts)
        if by is not None:
            self._save(best=False)
            self.checkpoints.finish()
            where = f"step {self.progress.step} of {self.config.training.steps}"
            raise StoppedError(f"stopped by {by.name} at {where}: the same command goes on", by)

    def _waited_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            self._say_where("the next batch")
            asked = time.monotonic()
            batch = next(batches)
            self.waited += time.monotonic() - asked
            yield batch

    def _evaluation_is_due(self) -> bool:
        settings = self.config.training
        step = self.progress.step
        return not settings.fit_all and (
            step % settings.evaluate_every == 0 or step == settings.steps
        )

    def _evaluation_is_missing(self) -> bool:
        """Whether the run was stopped between a step and the evaluation after it."""
        progress = self.progress
        every = self.config.training.evaluate_every
        done = -(-progress.best_step // every) + progress.without_gain
        return self._evaluation_is_due() and done < -(-progress.step // every)

    def _evaluate(self) -> None:
        progress = self.progress
        self._say_where("evaluation")
        index = self.built.index  # before what reads the rows that will be searched
        reach = Reach.of(self.built.model, self.config.evaluation)
        result = evaluate(
            self.built.model,
            index,
            self.data,
            "validation",
            self.config.evaluation,
            share=self.ranks.share,
            device=self.ranks.device,
            columns=self.built.columns,
            by_group=(),  # priors may have hundreds of groups: the category prior's alone are logged
            reach=reach,
            total=self.ranks.total,
            progress=self._heeding,
        )

        if not self.warned_of_reach:
            self.warned_of_reach = True
            for warning in reach.warnings() if self.ranks.leads else ():
                log.warning("warning: on validation, %s", warning)
        leaked = {} if self.leaks is None else self.leaks.to_metrics()
        self.logs.add(progress.step, result | leaked, prefix="validation/")

        better = result[SELECTED_BY] > progress.best
        if better:
            progress.best = result[SELECTED_BY]
            progress.best_step = progress.step
            progress.without_gain = 0
        else:
            progress.without_gain += 1
        shown = ", ".join(
            f"{name} {result[name]:.4f}" for name in ("ndcg@10", "recall@10", "entropy@10")
        )
        self.logs.say(
            f"step {progress.step}: validation {shown}{' (best so far)' if better else ''}"
        )
        if better or self._checkpoint_is_due():
            self._save(best=better)

    def _heeding(self, batches: Iterable[Histories], _count: int) -> Iterator[Histories]:
        """The batches of an evaluation, which is given up for a signal."""
        for batch in batches:
            self._heed(
                self.ranks.total(torch.tensor(self.stop.flags(), dtype=torch.float32)).tolist()
            )
            yield batch

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return patience > 0 and self.progress.without_gain >= patience

    def _checkpoint_is_due(self) -> bool:
        if self.progress.step % _ASK_EVERY:
            return False
        waited = time.monotonic() - self.saved_at
        return self.ranks.agree(waited >= self.config.training.checkpoint_seconds)

    def _save(self, *, best: bool) -> None:
        self._say_where("checkpoint")
        self.logs.flush()
        self.checkpoints.save(self.built, self.optimizers, self.progress, best=best)
        self.saved_at = time.monotonic()

    def _finish(self) -> dict[str, Any]:
        progress = self.progress
        if self.config.training.fit_all:
            progress.best_step = progress.step
        self._save(best=self.config.training.fit_all)
        self.checkpoints.finish()
        table = self.built.model.item_rows.rows * self.config.model.dim
        model = self.built.model
        of_heads = [model.heads, *([] if model.baseline is None else [model.baseline])]
        heads = sum(parameter.numel() for module in of_heads for parameter in module.parameters())
        dense = sum(
            p.numel()
            for name, p in self.built.model.named_parameters()
            if not name.startswith("table.")
        )
        summary = {
            "steps": progress.step,
            "best_step": progress.best_step,
            f"validation/{SELECTED_BY}": None if self.config.training.fit_all else progress.best,
            "stopped": "no better evaluation" if self._out_of_patience() else "end of schedule",
            "paths": len(self.built.model.tree.paths),
            "parameters": {"table": table, "heads": heads, "encoder and score": dense - heads},
            "ranks": self.ranks.world,
            "seconds_of_last_start": self._seconds(),
            "seconds_waiting_for_data": round(self.waited, 3),
            "config_sha256": self.config.sha256(),
        }
        if self.leaks is not None:
            summary |= {
                f"validation/{name}": value for name, value in self.leaks.to_metrics().items()
            }
        if self.ranks.leads:
            self.logs.flush()
            told = {
                "run_id": self.folder.origin().run_id,
                "log": length_and_checksum(self.folder.metrics),
            }
            write_json(self.folder.summary, summary | told)
        return summary

    def _say_where(self, doing: str) -> None:
        where = self.ranks.where
        where.step = self.progress.step + (doing == "the next batch")
        where.doing = doing

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)


def make_sampler(built: Built, config: RunConfig, data: PreparedData, ranks: Ranks) -> GroupSampler:
    """The sampler over the rows that this rank answers for; ranks tell one another how much of each set they own."""
    first = built.own.first
    last = built.own.last
    assert isinstance(built.model.item_rows, ItemRows), (
        "what a managed table holds changes: see `Admission`"
    )
    held = built.model.item_rows.held(first, last)
    sets = [
        np.unique(held.row_C[places]) for places in built.model.tree.eligible_among(held.item_C)
    ]
    if config.negatives.shared:
        sets.append(np.arange(first, last))
    weights = np.ones(last - first, np.int64)
    if config.negatives.popularity:
        frequency = built.model.item_rows.per_row(
            data.catalogue(["frequency"])["frequency"].to_numpy()
        )
        weights = draw_weights(frequency, config.negatives.popularity)[first:last]
    own = OwnItems.weighted(sets, first, weights)
    sizes_WS2 = torch.zeros(ranks.world, len(sets), 2, dtype=torch.int64)
    sizes_WS2[ranks.rank] = torch.from_numpy(own.sizes())
    return GroupSampler(
        own,
        ranks.total(sizes_WS2).numpy(),
        config.negatives,
        rank=ranks.rank,
        seed=config.seed,
        positives_S=built.positives_S.numpy(),
    )
