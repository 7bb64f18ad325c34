"""TorchX component of the app `evaluate`, written by `make components`: do not edit.

torchx run -s local_cwd components/evaluate.py:evaluate --run RUN --split test [key=value ...]
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
    threads: Optional[int] = None,
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
    """Evaluates the recommendations for every user against the whole catalogue.

    It writes eval/<split>/metrics.json and predictions.parquet. If the model has heads for events,
    it also writes predictions_event_given.parquet.

    Args:
        overrides: Changes to the run's settings evaluation.*; other settings cannot be changed.
        run: Folder of a trained run, or its URI: hf://ORG/NAME[@REVISION] on the Hugging Face hub.
        split: Split with the interactions that are the targets. One of: validation, test.
        data: Prepared data set, if it has moved since training.
        name: Write to eval/<split>-<NAME>/ instead, so that evaluations with other settings are not
            overwritten.
        trust: Run the files of custom code that the run was trained with, even if you have not
            trained with them here.
        leaked: What to do if the run started from another run that was trained on targets of some
            users: refuse to evaluate, leave these users out, or keep them. The metrics record this.
            One of: refuse, leave-out, keep.
        threads: The most threads with which each process computes. [cores, or OMP_NUM_THREADS]
        j: [min nodes:]nodes x processes per node.
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores per node.
        gpu: GPUs per node.
        memMB: Memory per node, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        run=run,
        split=split,
        data=data,
        name=name,
        trust=trust,
        leaked=leaked,
        threads=threads,
    )

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
