"""Who sees a training, besides its folder: the user, a Python program, and trackers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec_priors.training.callbacks import Callbacks
from torchrec_priors.training.tracking.tracking import TrackerName


@dataclass(frozen=True)
class Observers:
    """Who sees a training.

    Attributes:
        callbacks: the functions that a Python program has given.
        trackers: the trackers that the user has named.
        progress: whether the progress is shown on standard error.
    """

    callbacks: Callbacks = field(default_factory=Callbacks)
    trackers: Sequence[TrackerName] = ()
    progress: bool = True
