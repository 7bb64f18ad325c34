"""TorchX component: distributed training.

torchx run -s local_cwd components/train.py:train --config FILE --data DATA --run RUN [key=value ...]
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def train(
    *overrides: str,
    config: str,
    data: str,
    run: str,
    init_from: Optional[str] = None,
    fit_all: bool = False,
    trust: bool = False,
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
    """Trains a run, or goes on with it.

    Args:
        overrides: changes to the configuration, as in model.dim=64
        config: TOML file of the run's configuration
        data: folder of the prepared data set
        run: folder of the run
        init_from: folder of a run whose best weights this one starts from
        fit_all: train on validation and test interactions, too
        trust: run files of own code that the run was trained with, though you have not trained with them here
        j: [min nodes:]nodes x processes a node
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores a node
        gpu: GPUs a node
        memMB: memory a node, in MB
        max_retries: how often the scheduler may start it again
        max_restarts: how often torchrun may start all processes again, on the same machines; each goes on with the run
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(
        config=config, data=data, run=run, init_from=init_from, fit_all=fit_all, trust=trust
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
