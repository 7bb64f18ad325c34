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
    name: str,
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
    overwrite: bool = False,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Adds a prior to a prepared data set.

    It holds communities of the training log, an attribute, or a mapping of your own.

    The scheduler starts it as one process.

    Args:
        kind: graph: communities of items; user: communities of users, or --by, or --from; item:
            --from. One of: graph, user, item.
        data: Folder of the prepared data set.
        name: Name of the prior, as in priors.tree.
        from_file: CSV with a header or Parquet: item_id or user_id, and label.
        by: user: the user prior whose groups are taken, small ones merged.
        last: Number of a user's latest training interactions that make edges. [graph: 50, user:
            all]
        weights: Weight of an edge. shared: how many both ends share; cosine: divided by the root of
            how many each has; pmi: how much more than by chance; equal: 1. One of: shared, cosine,
            pmi, equal. [pmi]
        neighbours: Strongest neighbours that each item or user keeps; an edge needs one end.
            [graph: all, user: 20]
        resolution: Resolution of Leiden: the larger, the more communities. [1]
        groups: Final number of groups, the remainder included.
        join: Whether communities that are too small, or too many, join those that they share most
            with. --no-join: small ones form one group, and --groups looks for a resolution. [join]
        min_size: Least number of members of a group. [communities: 10, --by: 1]
        users_per_item: user: number of users, drawn at random, that an item joins at most. [2000]
        seed: Seed of Leiden and of what is drawn.
        memory: Memory for counting who shares what; beyond it, that spills to disk.
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
