"""Small mixed histories for tests."""

from functools import cache

import numpy as np

from torchrec_priors.synthetic.catalogue import Catalogue
from torchrec_priors.synthetic.mixed.histories import make_mixed
from torchrec_priors.synthetic.mixed.mix import Mix
from torchrec_priors.synthetic.mixed.structure import Structure

SIGNALS = ("long_term", "session", "event", "community", "group")
NOTHING = dict.fromkeys(SIGNALS, 0.0)


@cache
def structure(items=6_000, communities=20, seed=3):
    return Structure.make(Catalogue.make(items, seed), communities, seed)


def histories(mix, users=1_500, length=40, seed=3, planted=None):
    """Histories of equal length."""
    numbers = np.arange(1, users + 1)
    lengths = np.full(users, length)
    return make_mixed(planted or structure(seed=seed), mix, seed, numbers, lengths)


def only(**shares):
    """A mix in which other signals are off."""
    return Mix(**{**NOTHING, **shares})
