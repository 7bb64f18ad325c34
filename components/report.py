"""TorchX component: a page of what runs came to.

torchx run -s local_cwd components/report.py:report --runs RUNS --out FOLDER [--reference LABEL] [DIR ...]
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def report(
    *more: str,
    runs: List[str],
    out: str,
    reference: Optional[str] = None,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Writes a page of all evaluations of some runs.

    Args:
        more: more folders
        runs: folders of runs, of experiments, or that hold such, with commas
        out: folder of the page
        reference: row that the others are compared with
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores
        memMB: memory, in MB
        max_retries: how often the scheduler may start it again
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(runs=runs, out=out, reference=reference)
    return application(
        "report",
        options,
        *more,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
