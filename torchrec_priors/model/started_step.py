"""A batch whose vectors have been looked up: what `forward` needs for each of its parts."""

from dataclasses import dataclass

from torchrec_priors.data.batch import Contexts
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.loss import Counts, Positives


@dataclass(frozen=True)
class StartedStep:
    """A batch after `begin`: its vectors have been looked up, and all ranks' targets counted.

    Attributes:
        looked_up: vectors of the batch's items, negatives and side features.
        parts: the contexts of each part of the batch.
        positives: positives of each part.
        counts: counts of targets in the global batch, i.e. in the batches of all ranks.
    """

    looked_up: LookedUp
    parts: list[Contexts]
    positives: list[Positives]
    counts: Counts
