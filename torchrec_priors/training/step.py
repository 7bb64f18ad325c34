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
    counts = model.counts(positives)
    dense = built.parallel._dmp_wrapped_module  # DDP, which averages the gradients of the last part's backward
    device = model.weight_K.device
    whole, sums_3K = torch.zeros(1, device=device), torch.zeros(3, model.paths, device=device)
    for number, (part, found) in enumerate(zip(batch.parts, positives, strict=True), 1):
        waits = number < len(batch.parts)
        with dense.no_sync() if waits else nullcontext():
            loss, sums = built.parallel(looked_up, part, found, counts)
            loss.backward()
        whole += loss.detach() / model.exchange.ranks
        sums_3K += sums
    told = model.exchange.total(torch.cat([whole, sums_3K.flatten()]))
    value = float(told[0])
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss of step {batch.step} is {value}: lower the learning rates")
    model.certainty.update(told[1:].view(3, -1))
    looked_up.backward()
    optimizers.step()
    return value
