"""TorchX component: speed and memory of one shape.

torchx run -s local_cwd components/bench.py:bench --shape merrec
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def bench(
    shape: str,
    repeats: int = 5,
    threads: Optional[int] = None,
    ablations: bool = False,
    only: Optional[List[str]] = None,
    json: bool = False,
    profile: Optional[str] = None,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 16384,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Measures our path, the dense reference and the machine's limit.

    Args:
        shape: what to measure
        repeats: of each variant
        threads: of each process
        ablations: also leave out each optimisation in turn
        only: only these variants, beside ours
        json: print one JSON object
        profile: also write a trace there
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores
        gpu: GPUs
        memMB: memory in MB
        max_retries: how often the scheduler may start it again
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(
        shape=shape,
        repeats=repeats,
        threads=threads,
        ablations=ablations,
        only=only,
        json=json,
        profile=profile,
    )
    return application(
        "bench",
        options,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
