"""TorchX component of the app `describe`, written by `make components`: do not edit.

torchx run -s local_cwd components/describe.py:describe DATA
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def describe(
    *data: str,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Says what a prepared data set contains.

    Prints sizes, times, lengths of histories, priors, the most frequent items, and one history.

    The scheduler starts it as one process.

    Args:
        data: Folder or URI of the prepared data set.
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores.
        memMB: Memory, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    return application(
        "describe",
        {},
        *data,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
