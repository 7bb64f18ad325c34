"""TorchX component of the app `report`, written by `make components`: do not edit.

torchx run -s local_cwd components/report.py:report --runs RUNS --out FOLDER [DIR ...]
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
    """Writes a page with all evaluations of some runs.

    The page says what to turn on for whom, and it shows tables, figures and example users. It needs
    no network: you can send it, or open it from the disk.

    The scheduler starts it as one process.

    Args:
        more: More folders, so that you can give --runs DIR DIR ...
        runs: Folder of a run or an experiment, or of several of them. Separate several with commas.
        out: Folder for the page, which is called index.html.
        reference: Row that the others are compared with. [one head, next item]
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores.
        memMB: Memory, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        runs=runs,
        out=out,
        reference=reference,
    )

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
