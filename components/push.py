"""TorchX component of the app `push`, written by `make components`: do not edit.

torchx run -s local_cwd components/push.py:push --run RUN --to FOLDER --license NAME
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def push(
    run: str,
    to: str,
    license: Optional[str] = None,
    private: bool = False,
    data: Optional[str] = None,
    threads: Optional[int] = None,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Writes the best checkpoint as a folder with a model card, or uploads it to the hub.

    The folder has weights (safetensors), settings, and the items and labels of the data set, but
    neither its users nor their interactions. `--run` of other commands loads it.

    The scheduler starts it as one process.

    Args:
        run: Folder of a trained run.
        to: Folder to write, which must be empty or not exist yet, or a repository on the Hugging
            Face hub.
        license: License of the model, as the hub names it, such as apache-2.0. By default the card
            says that there is none.
        private: Make a new repository on the hub private.
        data: Prepared data set, if it has moved since training.
        threads: The most threads with which each process computes. [cores, or OMP_NUM_THREADS]
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
        run=run,
        to=to,
        license=license,
        private=private,
        data=data,
        threads=threads,
    )

    return application(
        "push",
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
