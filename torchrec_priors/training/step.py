"""One training step: one lookup, the loss part by part, one update of tables and dense parameters."""

import math
from contextlib import nullcontext

import torch

from torchrec_priors.data.batch import Batch
from torchrec_priors.training.build import Built, Optimizers


def step(built: Built, optimizers: Optimizers, batch: Batch) -> float:
    """Changes the model by one global batch and returns its loss, the same on every rank and whatever the parts.

    Every rank must call it, with the same number of parts.

    Raises:
        FloatingPointError: the loss is no finite number; nothing was changed.
    """
    model = built.model
    optimizers.prepare(batch.step)
    looked_up = model.look_up(batch)
    positives = [model.positives(looked_up, part) for part in batch.parts]
    counts_KT = model.counts(positives)
    dense = built.parallel._dmp_wrapped_module  # DDP, which averages the gradients of the last part's backward
    whole = torch.zeros((), device=counts_KT.device)
    for number, (part, found) in enumerate(zip(batch.parts, positives, strict=True), 1):
        waits = number < len(batch.parts)
        with dense.no_sync() if waits else nullcontext():
            loss = built.parallel(looked_up, part, found, counts_KT)
            loss.backward()
        whole += loss.detach() / model.exchange.ranks
    value = float(model.exchange.total(whole))
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss of step {batch.step} is {value}: lower the learning rates")
    looked_up.backward()
    optimizers.step()
    return value
