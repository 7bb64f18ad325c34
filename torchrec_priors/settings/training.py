"""The section `[training]`: batches, the schedule, evaluations and checkpoints of training."""

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

# A run may be resumed with other values of these settings, because they do not change its results.
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
    """Batches, the schedule, evaluations and checkpoints of training.

    Attributes:
        batch: number of windows in a global batch, over all ranks; 0 if `batch_tokens` is given.
        batch_tokens: the largest number of context items in a global batch. It replaces `batch`, so
            that all batches need about the same work, even if histories have different lengths. An
            epoch has ceil(its tokens / (batch_tokens - longest context + 1)) steps.
        balance: how a batch is divided among the ranks. `length` gives each rank about the same
            cost of attention, `none` gives each the same number of windows. The result is the same.
        accumulate: number of parts into which every rank divides its share of a batch. The parts
            are computed one after another, which needs less memory. The result is the same.
        precision: `fp32`, or `bf16` for the encoder's matrix products in training.
        products: how the prior heads and their losses multiply float32 matrices on a CPU.
            `bf16x3` multiplies pieces of bfloat16 that together have all bits, and is as exact as
            `fp32`. `bf16x2` has 16 of 24 bits, and `bf16x1` has 8. Sums are float32 in all of them.
            They need a processor with AMX; `bf16x1` can use AVX512-BF16 instead. Without it, and
            on GPUs, they are `fp32`.
        steps: length of the schedule; training may stop earlier (`patience`).
        learning_rate: peak learning rate of AdamW, for the dense parameters.
        weight_decay: weight decay of AdamW.
        warmup: share of the steps in which both learning rates rise linearly. After that they fall
            to 0 as a cosine.
        clip_norm: the largest norm of the dense gradient; a larger gradient is scaled down to it.
        max_loss: the largest loss, as a multiple of log(items), which is the loss of random
            guessing. If the loss is larger, training has diverged and stops. 0 allows any loss. A
            loss or gradient that is not finite always stops training.
        evaluate_every: number of steps between evaluations on the validation split.
        patience: number of evaluations without a better ndcg@10 after which training stops; 0 never
            stops early.
        log_every: number of steps between lines of `metrics.jsonl`.
        checkpoint_seconds: seconds between checkpoints. An evaluation with the best result so far
            also writes one.
        checkpoint_async: whether training continues while a checkpoint is written, from a copy of
            this rank's share.
        keep_last: number of the newest checkpoints that are kept.
        keep_best: number of the best checkpoints that are kept in addition.
        timeout_seconds: how long a process waits for the others before it reports an error.
        workers: number of threads on each rank that decode sequences before they are needed; 0
            decodes them when they are needed.
        prefetch: number of batches that a thread prepares before they are needed; 0 prepares each
            batch when it is needed.
        pipeline: what is done for later batches while a step computes. `sparse-dist` copies them to
            the device and sends their ids to the ranks that hold the rows. `prefetch` also brings
            the rows into a GPU's cache. `plain` does neither. `auto` is `plain` on CPUs and for
            managed tables. On GPUs it is `prefetch` if a table has a cache, otherwise
            `sparse-dist`. The result is the same.
        shuffled_row_groups: number of row groups of the prepared data that are shuffled together.
            Twice as many are in memory (without workers, only these).
        moving_windows: whether histories are cut into windows at different places in every epoch.
            An item is then trained on at different positions, after different parts of its past. A
            history of up to `model.context` items is always one window. The number of windows stays
            the same.
        shuffle_ties: whether a user's interactions with equal times are reordered at random in
            every epoch, because their real order is unknown. The data set must have times.
        fit_all: whether validation and test interactions are trained on, too, as with `--fit-all`.
            This is for a model that will be served. Nothing is left to evaluate on, so the last
            checkpoint counts as the best.
    """

    # Batches
    batch: CountOrZero = 128
    batch_tokens: CountOrZero = 0
    balance: Literal["length", "none"] = "length"
    accumulate: Annotated[int, Ge(1), Le(1 << 12)] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    products: Literal["fp32", "bf16x3", "bf16x2", "bf16x1"] = "fp32"

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
        """Raises UserError if a value is out of its range, or if two contradict each other."""
        check_ranges(self, "training")

        # Either `batch` or `batch_tokens` gives the size of a batch, and the other one must be 0.
        if self.batch_tokens > 0 and self.batch > 0:
            raise UserError(
                f"training.batch = {self.batch} and training.batch_tokens = {self.batch_tokens}: "
                "give one of the two, with the other 0"
            )
        if self.batch_tokens == 0 and self.batch == 0:
            raise UserError("training.batch = 0 must be at least 1 (or give training.batch_tokens)")

    def largest_loss(self, items: int) -> float:
        """Returns the largest loss at which a step does not count as diverged.

        Args:
            items: the number of items in the data set.

        >>> round(TrainingConfig().largest_loss(1000), 1)
        69.1
        >>> TrainingConfig(max_loss=0).largest_loss(1000)
        inf
        """
        if not self.max_loss:
            return math.inf
        return self.max_loss * max(1.0, math.log(items))

    def rate(self, step: int) -> float:
        """Returns the factor of both learning rates at a step: a linear rise, then a cosine to 0.

        >>> [round(TrainingConfig(steps=10, warmup=0.2).rate(step), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
        """
        # Steps are numbered from 0, so 1 is added: the first step then has a factor above 0, and
        # the last step of the warm-up has the factor 1.
        warmup = round(self.warmup * self.steps)
        if step < warmup:
            return (step + 1) / warmup

        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * done))
