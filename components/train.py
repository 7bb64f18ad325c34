"""TorchX component of the app `train`, written by `make components`: do not edit.

torchx run -s local_cwd components/train.py:train --config FILE --data DATA --run RUN [KEY=X ...]
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def train(
    *overrides: str,
    data: str,
    run: str,
    config: Optional[str] = None,
    init_from: Optional[str] = None,
    fit_all: bool = False,
    track: Optional[List[str]] = None,
    trust: bool = False,
    threads: Optional[int] = None,
    j: str = "1x2",
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    max_retries: int = 0,
    max_restarts: int = 3,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Trains a run, or resumes it.

    It trains on all ranks of a launcher (torchrun, TorchX), or without a launcher in this process.
    A plain baseline (plain.name) is fitted at once.

    Args:
        overrides: Changes to the configuration, such as model.dim=64.
        data: Folder of the prepared data set.
        run: Folder of the run. If it contains a run of the same configuration, that run is resumed.
        config: TOML file of the run's configuration, or the name of one that comes with the
            project, such as small. [the default of every key]
        init_from: Folder of another run. The new run starts from its best weights; items and heads
            are matched by name.
        fit_all: Also train on validation and test interactions. Such a model is for serving and
            cannot be evaluated.
        track: Also show the curves and the hyper-parameters in tensorboard:FOLDER, mlflow:FOLDER,
            mlflow:URI, wandb:PROJECT, or torchx (the trackers of .torchxconfig). Separate several
            with commas.
        trust: Run the files of custom code that the run was trained with, even if you have not
            trained with them here.
        threads: The most threads with which each process computes. [cores, or OMP_NUM_THREADS]
        j: [min nodes:]nodes x processes per node.
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores per node.
        gpu: GPUs per node.
        memMB: Memory per node, in MB.
        max_retries: Number of times that the scheduler may start it again.
        max_restarts: Number of times that torchrun may start all processes again, on the same
            machines; each time they resume the run.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        data=data,
        run=run,
        config=config,
        init_from=init_from,
        fit_all=fit_all,
        track=track,
        trust=trust,
        threads=threads,
    )

    return application(
        "train",
        options,
        *overrides,
        j=j,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        max_restarts=max_restarts,
        env=env,
        mounts=mounts,
    )
