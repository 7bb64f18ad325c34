"""Users of whom only the targets matter."""

import numpy as np

from torchrec_priors.data.histories import Histories


def users_with_targets(targets):
    """Users without histories: one list of targets each."""
    lengths = np.array([len(of_user) for of_user in targets])
    none = np.zeros(0, np.int64)
    zeros = np.zeros(len(targets), np.int64)
    flat = np.concatenate([np.array(of_user, np.int64) for of_user in targets])
    return Histories(None, none, zeros, none, zeros, flat, lengths, np.arange(len(targets)))
