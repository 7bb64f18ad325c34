"""Copies a data set without its users: what serving needs to name items and their labels.

The copy keeps the checksums of the whole data set, so a run recognises it as its own. It has no
interactions, no ids of users, and no list of the users of a group.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from torchrec_priors.common.files import check_path
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import HELD, SEQUENCES
from torchrec_priors.publishing.files import copy_file


def copy_without_users(data: PreparedData, out: Path, content: str) -> None:
    """Copies a data set without its users.

    Args:
        data: the data set.
        out: the folder to create.
        content: the name of the vectors of items that are copied; empty for none.

    Raises:
        UserError: a file is missing or damaged.
        OSError: the folder cannot be written.
    """
    manifest = data.manifest
    of_users = [prior for prior in manifest.priors if prior.kind == "user"]
    without = {prior.path for prior in of_users}
    without |= {info.path for info in manifest.content if info.name != content}
    absent = [
        info.path
        for info in manifest.files
        if info.path in without or info.path.startswith((SEQUENCES, HELD))
    ]

    # The settings of `prepare` name files of this machine, and serving does not read them.
    copied = replace(
        manifest,
        settings={},
        absent=absent,
        most_groups={prior.name: _most_groups(data, prior.name) for prior in of_users},
    )
    for info in manifest.files:
        if info.path not in absent:
            target = out / check_path(info.path, "--data: the file")
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(data.file(info.path), target)
    copied.write(out)


def _most_groups(data: PreparedData, prior: str) -> int:
    """Returns the largest number of groups of a prior that one user is in."""
    if not data.manifest.has_users:
        return data.manifest.most_groups.get(prior, 0)
    user, _ = data.user_pairs(prior)
    return int(np.bincount(user).max()) if len(user) else 0
