"""TorchX component: a matrix of runs from one file.

torchx run -s local_cwd components/experiment.py:experiment --data DATA FILE
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def experiment(
    *file: str,
    data: Optional[str] = None,
    out: Optional[str] = None,
    split: Optional[str] = None,
    at_once: Optional[int] = None,
    only: Optional[List[str]] = None,
    scheduler: Optional[str] = None,
    ranks: str = "1x1",
    no_keep: bool = False,
    trust: bool = False,
    search: bool = False,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Runs what is missing of an experiment, in one process that starts the others.

    Args:
        file: TOML file of the experiment
        data: prepared data set; the file's by default
        out: folder of the runs and results
        split: validation or test; the file's by default
        at_once: runs at a time
        only: run these cells alone, separated by commas
        scheduler: TorchX scheduler that the runs are started on
        ranks: with scheduler, nodes x processes a node, a run
        no_keep: remove a run's checkpoints once it is evaluated
        trust: run files of own code that the run was trained with, though you have not trained with them here
        search: try the values of the file's section search first, on validation
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
        data=data,
        out=out,
        split=split,
        at_once=at_once,
        only=only,
        scheduler=scheduler,
        ranks=ranks,
        no_keep=no_keep,
        trust=trust,
        search=search,
    )
    return application(
        "experiment",
        options,
        *file,
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
