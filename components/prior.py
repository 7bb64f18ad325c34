"""TorchX component: adds a prior to a prepared data set.

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
    unweighted: bool = False,
    neighbours: Optional[int] = None,
    resolution: Optional[float] = None,
    groups: Optional[int] = None,
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
    """Adds a prior to a prepared data set, in one process.

    Args:
        kind: graph, user or item
        data: folder of the prepared data set
        name: name of the prior, as in priors.tree
        from_file: mapping of item_id or user_id to label (the app's --from)
        by: user prior whose groups are taken, small ones merged
        last: training interactions of a user that make edges, the latest
        unweighted: every edge weighs 1
        neighbours: strongest neighbours that each item or user keeps
        resolution: of Leiden
        groups: how many groups there are to be in the end
        min_size: groups of fewer members are merged into one
        users_per_item: at most so many users of an item are joined by it
        seed: of Leiden and of what is drawn
        memory: for counting who shares what
        overwrite: replace a prior of this name that was added
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores
        memMB: memory in MB
        max_retries: how often the scheduler may start it again
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(
        data=data,
        name=name,
        from_file=from_file,
        by=by,
        last=last,
        unweighted=unweighted,
        neighbours=neighbours,
        resolution=resolution,
        groups=groups,
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
