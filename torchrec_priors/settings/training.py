"""Settings of the training loop."""

import math
from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError

# Of these a run may go on with other values: none of them changes a number.
MAY_CHANGE = (
    "max_loss",
    "checkpoint_seconds",
    "checkpoint_async",
    "keep_last",
    "keep_best",
    "timeout_seconds",
    "workers",
    "prefetch",
    "pipeline",
)


@dataclass
class TrainingConfig:
    """The training loop.

    Attributes:
        batch: windows of a global batch, over all ranks; 0 where `batch_tokens` is given.
        batch_tokens: the most items of contexts in a global batch, instead of a number of windows: batches of about the
            same work, whatever the lengths. An epoch has ceil(its tokens / (batch_tokens - longest context + 1)) steps.
        balance: how a batch is dealt to ranks: `length` gives each about the same attention cost, `none` plain slices.
            The result is the same.
        accumulate: parts in which every rank computes its share of a batch, one after another, to need less memory;
            the result is that of the whole.
        precision: `fp32`, or `bf16` for the encoder's matrix products in training.
        steps: length of the schedule; early stopping may end it sooner.
        learning_rate: of AdamW on the dense parameters, at its peak.
        weight_decay: of AdamW.
        warmup: share of the steps over which both learning rates rise linearly; then they fall to 0 as a cosine.
        clip_norm: largest norm of the dense gradient.
        max_loss: the loss from which on training counts as diverged and stops, as a multiple of log(items), the loss of
            guessing; 0 allows any. A loss or gradient that is no finite number always stops it.
        evaluate_every: steps between evaluations on the validation split.
        patience: evaluations without a better ndcg@10 after which training stops; 0 never stops early.
        log_every: steps between lines of `metrics.jsonl`.
        checkpoint_seconds: seconds between checkpoints; every evaluation that is the best so far makes one too.
        checkpoint_async: whether checkpoints are written beside training, from a copy of this rank's share.
        keep_last: how many of the newest checkpoints are kept.
        keep_best: how many of the best so far are, besides.
        timeout_seconds: how long a process waits for the others before that is an error.
        workers: threads that decode the sequences ahead, per rank; 0 decodes them when they are needed.
        prefetch: batches that a thread makes ready before they are needed; 0 makes each when it is.
        pipeline: how batches come to their steps. `sparse-dist` copies the next one to the device and sends its ids to
            the ranks that hold their rows while a step computes; `prefetch` brings the rows into a GPU's cache, too;
            `plain` does neither; `auto` is, on GPUs, `prefetch` where a table has a cache, else `sparse-dist`, and
            `plain` on CPUs and for managed tables. The result is the same.
        shuffled_row_groups: row groups of the prepared data that are shuffled together; twice as many are in memory
            (once without workers).
        moving_windows: whether histories are cut into windows elsewhere in every epoch, so that an item is met at
            other positions, after other pasts of its window; a history of up to model.context items is one window
            anyhow. The number of windows stays.
        shuffle_ties: whether interactions of a user at one and the same time, whose order the log does not know, are
            trained on in a new order in every epoch. Needs times.
        fit_all: whether validation and test interactions are trained on, too, for a model to be served: then nothing
            is left to evaluate on, and the last checkpoint counts as the best.
    """

    batch: int = 128
    batch_tokens: int = 0
    balance: Literal["length", "none"] = "length"
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    steps: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip_norm: float = 1.0
    max_loss: float = 10.0
    evaluate_every: int = 100
    patience: int = 10
    log_every: int = 10
    checkpoint_seconds: float = 60.0
    checkpoint_async: bool = True
    keep_last: int = 2
    keep_best: int = 1
    timeout_seconds: float = 600.0
    workers: int = 1
    prefetch: int = 2
    pipeline: Literal["auto", "plain", "sparse-dist", "prefetch"] = "auto"
    shuffled_row_groups: int = 64
    moving_windows: bool = False
    shuffle_ties: bool = False
    fit_all: bool = False

    def check(self) -> None:
        if self.batch_tokens > 0 < self.batch:
            both = f"training.batch = {self.batch} and training.batch_tokens = {self.batch_tokens}"
            raise UserError(f"{both}: give one of the two, with the other 0")
        if self.batch_tokens == 0 and self.batch < 1:
            raise UserError(
                f"training.batch = {self.batch} must be at least 1 (or give training.batch_tokens)"
            )
        for name in (
            "accumulate",
            "steps",
            "evaluate_every",
            "log_every",
            "shuffled_row_groups",
            "keep_last",
            "keep_best",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} = {getattr(self, name)} must be at least 1")
        not_negative = (
            "batch",
            "batch_tokens",
            "learning_rate",
            "weight_decay",
            "patience",
            "workers",
            "prefetch",
        )
        for name in (*not_negative, "checkpoint_seconds", "max_loss"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name} = {getattr(self, name)} must not be negative")
        if not 0 <= self.warmup < 1:
            raise UserError(f"training.warmup = {self.warmup} must be in [0, 1)")
        for name in ("clip_norm", "timeout_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"training.{name} = {getattr(self, name)} must be positive")

    def largest_loss(self, items: int) -> float:
        """The largest loss of a step that is not called diverged.

        >>> round(TrainingConfig().largest_loss(1000), 1), TrainingConfig(max_loss=0).largest_loss(1000)
        (69.1, inf)
        """
        return self.max_loss * max(1.0, math.log(items)) if self.max_loss else math.inf

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step: linear warm-up, then a cosine to 0.

        >>> [round(TrainingConfig(steps=10, warmup=0.2).rate(step), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
        """
        warmup = round(self.warmup * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * done))
