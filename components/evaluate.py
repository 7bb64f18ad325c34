"""TorchX component: full-catalogue evaluation.

torchx run -s local_cwd components/evaluate.py:evaluate --run RUN --split test [--name NAME evaluation.key=value ...]
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def evaluate(
    *overrides: str,
    run: str,
    split: str,
    data: Optional[str] = None,
    name: Optional[str] = None,
    trust: bool = False,
    leaked: str = "refuse",
    j: str = "1x2",
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Evaluates the best checkpoint of a run.

    Args:
        overrides: changes to the run's evaluation settings
        run: folder of the run
        split: validation or test
        data: prepared data set, where it has moved since training
        name: write to eval/SPLIT-NAME/ instead
        trust: run files of own code that the run was trained with, though you have not trained with them here
        leaked: refuse, leave-out or keep users with targets that a run this one started from was trained on
        j: [min nodes:]nodes x processes a node
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores a node
        gpu: GPUs a node
        memMB: memory a node, in MB
        max_retries: how often the scheduler may start it again
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(run=run, split=split, data=data, name=name, trust=trust, leaked=leaked)
    return application(
        "evaluate",
        options,
        *overrides,
        j=j,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
