"""The section `[training]`: the training loop."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AllowInfNan

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import (
    Amount,
    Count,
    CountOrZero,
    PositiveAmount,
    Probability,
    Section,
    check_ranges,
)

# A run may be resumed with other values of these: none of them changes a number.
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
class TrainingConfig(Section):
    """The training loop.

    Attributes:
        batch: windows of a global batch, over all ranks; 0 if `batch_tokens` is given.
        batch_tokens: most items of contexts in a global batch, instead of a number of windows:
            batches of about the same work, whatever the lengths. An epoch has
            ceil(its tokens / (batch_tokens - longest context + 1)) steps.
        balance: how a batch is dealt to ranks: `length` gives each about the same attention cost,
            `none` plain slices. The result is the same.
        accumulate: parts in which every rank computes its share of a batch, one after another, to
            need less memory. The result is that of the whole.
        precision: `fp32`, or `bf16` for the encoder's matrix products in training.
        steps: length of the schedule; early stopping may end it sooner.
        learning_rate: peak learning rate of AdamW, for the dense parameters.
        weight_decay: weight decay of AdamW.
        warmup: share of the steps over which both learning rates rise linearly; then they fall to 0
            as a cosine.
        clip_norm: largest norm of the dense gradient.
        max_loss: loss from which on training counts as diverged and stops, as a multiple of
            log(items), the loss of guessing; 0 allows any. A loss or gradient that is not finite
            always stops it.
        evaluate_every: steps between evaluations on the validation split.
        patience: evaluations without a better ndcg@10 after which training stops; 0 never stops
            early.
        log_every: steps between lines of `metrics.jsonl`.
        checkpoint_seconds: seconds between checkpoints; every evaluation that is the best so far
            writes one, too.
        checkpoint_async: whether checkpoints are written while training continues, from a copy of
            this rank's share.
        keep_last: number of newest checkpoints that are kept.
        keep_best: number of best checkpoints that are kept in addition.
        timeout_seconds: how long a process waits for the others before it reports an error.
        workers: threads that decode the sequences ahead, per rank; 0 decodes them when they are
            needed.
        prefetch: batches that a thread prepares before they are needed; 0 prepares each when it is.
        pipeline: how batches come to their steps. `sparse-dist` copies the next one to the device
            and sends its ids to the ranks that hold their rows while a step computes; `prefetch`
            brings the rows into a GPU's cache, too; `plain` does neither; `auto` is, on GPUs,
            `prefetch` if a table has a cache, otherwise `sparse-dist`, and `plain` on CPUs and for
            managed tables. The result is the same.
        shuffled_row_groups: row groups of the prepared data that are shuffled together; twice as
            many are in memory (once without workers).
        moving_windows: whether histories are cut into windows at other places in every epoch, so an
            item is seen at other positions, after other pasts of its window; a history of up to
            `model.context` items is always one window. The number of windows stays.
        shuffle_ties: whether interactions of a user at the same time, of which the log does not
            know the order, are trained on in a new order in every epoch. Needs times.
        fit_all: as `--fit-all`: whether validation and test interactions are trained on, too, for a
            model to be served: then nothing is left to evaluate on, and the last checkpoint counts
            as the best.
    """

    # Batches
    batch: CountOrZero = 128
    batch_tokens: CountOrZero = 0
    balance: Literal["length", "none"] = "length"
    accumulate: Annotated[int, Ge(1), Le(1 << 12)] = 1
    precision: Literal["fp32", "bf16"] = "fp32"

    # The schedule
    steps: Count = 1000
    learning_rate: Amount = 1e-3
    weight_decay: Amount = 0.0
    warmup: Probability = 0.1
    clip_norm: PositiveAmount = 1.0
    max_loss: Amount = 10.0

    # Evaluation and logs
    evaluate_every: Count = 100
    patience: CountOrZero = 10
    log_every: Count = 10

    # Checkpoints and lost processes
    checkpoint_seconds: Amount = 60.0
    checkpoint_async: bool = True
    keep_last: Count = 2
    keep_best: Count = 1
    timeout_seconds: Annotated[float, Gt(0), Le(10**8), AllowInfNan(False)] = 600.0

    # Reading
    workers: Annotated[int, Ge(0), Le(1 << 8)] = 1
    prefetch: Annotated[int, Ge(0), Le(1 << 10)] = 2
    pipeline: Literal["auto", "plain", "sparse-dist", "prefetch"] = "auto"
    shuffled_row_groups: Count = 64
    moving_windows: bool = False
    shuffle_ties: bool = False
    fit_all: bool = False

    def check(self) -> None:
        """Raises UserError if a value is out of its range or two do not fit."""
        check_ranges(self, "training")

        # A batch is one of the two: 0 means that the other decides.
        if self.batch_tokens > 0 and self.batch > 0:
            raise UserError(
                f"training.batch = {self.batch} and training.batch_tokens = {self.batch_tokens}: "
                "give one of the two, with the other 0"
            )
        if self.batch_tokens == 0 and self.batch == 0:
            raise UserError("training.batch = 0 must be at least 1 (or give training.batch_tokens)")

    def largest_loss(self, items: int) -> float:
        """The largest loss of a step that does not count as diverged.

        >>> round(TrainingConfig().largest_loss(1000), 1)
        69.1
        >>> TrainingConfig(max_loss=0).largest_loss(1000)
        inf
        """
        if not self.max_loss:
            return math.inf
        return self.max_loss * max(1.0, math.log(items))

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step: linear warm-up, then a cosine to 0.

        >>> [round(TrainingConfig(steps=10, warmup=0.2).rate(step), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
        """
        # Steps count from 0: the first has a rate above 0, and the last of the warm-up the whole
        # one.
        warmup = round(self.warmup * self.steps)
        if step < warmup:
            return (step + 1) / warmup

        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * done))
