"""TorchX component of the app `experiment`, written by `make components`: do not edit.

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
    threads: Optional[int] = None,
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
    """Runs the missing runs of an experiment, and writes a table of all results.

    The scheduler starts it as one process.

    Args:
        file: TOML file of the experiment, or the name of one that comes with the project.
        data: Prepared data set. [the file's]
        out: Folder for the runs and the files <split>/results.parquet and .md. [experiments/<name>]
        split: Split to evaluate on. One of: validation, test. [the file's; validation]
        at_once: Number of runs at the same time. [the file's; 1]
        only: Run only this cell. Separate several with commas.
        scheduler: TorchX scheduler to run on, such as local_cwd. [each run is a process with one
            thread on this machine]
        ranks: With --scheduler: nodes x processes per node for each run.
        no_keep: Remove a run's checkpoints after it is evaluated.
        trust: Run the files of custom code that the run was trained with, even if you have not
            trained with them here.
        threads: The most threads with which each process computes. [1; with --scheduler its cores /
            processes]
        search: Try the values of the file's [search], on validation only. Writes search/best.toml,
            an experiment with the chosen values, and search/results.parquet and .md. --no_keep
            keeps the checkpoints of the best trials.
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
        data=data,
        out=out,
        split=split,
        at_once=at_once,
        only=only,
        scheduler=scheduler,
        ranks=ranks,
        no_keep=no_keep,
        trust=trust,
        threads=threads,
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
