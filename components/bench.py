"""TorchX component of the app `bench`, written by `make components`: do not edit.

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
    run: Optional[str] = None,
    case: Optional[str] = None,
    seconds: float = 10.0,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 16384,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Measures a shape: this package, the dense reference and the machine's limit.

    Every variant runs in a separate process, one after another.

    The scheduler starts it as one process.

    Args:
        shape: What to measure: merrec, pixel8m, ebnerd, retrieval, attention, contention, launches,
            prepare, reader, requests, scaling, serve, sharding.
        repeats: Repeats of each variant; the median counts.
        threads: The most threads with which each process computes. [cores of this machine]
        ablations: Also leave out each optimisation in turn (training shapes).
        only: Measure only this variant, in addition to `ours`. Separate several with commas.
        json: Print one JSON object with `rows` instead of the table.
        profile: Also write a trace of the variant `ours` to this file, for chrome://tracing or
            Perfetto.
        run: Folder of the trained run to serve (shape serve).
        case: What to serve instead of a trained run (shape serve): 4 heads, 45 heads, 64 heads, or
            merrec. [4 heads]
        seconds: Seconds of each measurement of a service (shape serve).
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores.
        gpu: GPUs.
        memMB: Memory, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        shape=shape,
        repeats=repeats,
        threads=threads,
        ablations=ablations,
        only=only,
        json=json,
        profile=profile,
        run=run,
        case=case,
        seconds=seconds,
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
