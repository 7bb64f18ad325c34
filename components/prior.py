"""TorchX component of the app `prior`, written by `make components`: do not edit.

torchx run -s local_cwd components/prior.py:prior --data DATA --name NAME graph
torchx run -s local_cwd components/prior.py:prior --data DATA --name NAME --from_file FILE item
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def prior(
    *kind: str,
    data: str,
    name: Optional[str] = None,
    from_file: Optional[str] = None,
    by: Optional[str] = None,
    last: Optional[int] = None,
    weights: Optional[str] = None,
    neighbours: Optional[int] = None,
    resolution: Optional[float] = None,
    groups: Optional[int] = None,
    join: Optional[bool] = None,
    min_size: Optional[int] = None,
    users_per_item: Optional[int] = None,
    seed: int = 0,
    memory: str = "2GB",
    words: Optional[str] = None,
    overwrite: bool = False,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Adds a prior to a prepared data set, lists its priors, removes one, or names its groups.

    The groups of an added prior are communities found in the training log, the values of an
    attribute, or labels from a file of yours.

    The scheduler starts it as one process.

    Args:
        kind: graph: communities of items. user: communities of users, or groups from --by or
            --from. item: groups from --from. list: print the priors. remove: remove one that was
            added. words: say what its groups are called in reasons that people read. One of: graph,
            user, item, list, remove, words.
        data: Folder of the prepared data set.
        name: Name of the prior, as in priors.tree. [list: all priors]
        from_file: CSV file with a header, or Parquet file, with the columns item_id or user_id, and
            label.
        by: user: take the groups of this user prior, and merge small ones.
        last: Number of each user's latest training interactions from which edges are made. [graph:
            50, user: all]
        weights: Weight of an edge. shared: number of users or items that its ends share. cosine:
            this number, divided by the square root of the product of the two ends' own numbers.
            pmi: how much more the ends share than by chance. equal: 1. One of: shared, cosine, pmi,
            equal. [pmi]
        neighbours: Number of strongest neighbours that each item or user keeps; an edge stays if
            one of its ends keeps it. [graph: all, user: 20]
        resolution: Resolution of Leiden; a larger one gives more communities. [1]
        groups: Final number of groups, including the remainder.
        join: Whether communities that are too small or too many are joined with those that they
            share most with. --no-join: small ones form one group, and --groups searches for a
            resolution that gives this number of groups. [join]
        min_size: Least number of members of a group. [communities: 10, --by: 1]
        users_per_item: user: largest number of users that are connected because of one item; they
            are drawn at random. [2000]
        seed: Seed of Leiden and of random draws.
        memory: Memory for counting shared users or items; if it is full, the disk is used.
        words: words: what a group is called, with {} in the place of its name, such as '{} films'
            or '{} shoppers'. An empty text brings the usual words back.
        overwrite: Replace a prior of this name that was added before.
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores.
        memMB: Memory, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        data=data,
        name=name,
        from_file=from_file,
        by=by,
        last=last,
        weights=weights,
        neighbours=neighbours,
        resolution=resolution,
        groups=groups,
        join=join,
        min_size=min_size,
        users_per_item=users_per_item,
        seed=seed,
        memory=memory,
        words=words,
        overwrite=overwrite,
    )

    return application(
        "prior",
        options,
        *kind,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
