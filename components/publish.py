"""TorchX component of the app `publish`, written by `make components`: do not edit.

torchx run -s local_cwd components/publish.py:publish --run RUN --to FOLDER
torchx run -s local_cwd components/publish.py:publish --to FOLDER --version NAME
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def publish(
    to: str,
    run: Optional[str] = None,
    version: Optional[str] = None,
    keep: int = 3,
    canary: Optional[str] = None,
    data: Optional[str] = None,
    trust: bool = False,
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
    """Copies the best checkpoint, and what else serving reads, into a folder of versions.

    The version is loaded and tried out first. Services that follow the folder then use it.

    The scheduler starts it as one process.

    Args:
        to: Folder of published models.
        run: Folder of a trained run. Without it, --version names a version that was published
            before, which becomes the current one again.
        version: Name of the version. By default, the time in UTC.
        keep: Number of versions to keep, with the new one. Older ones are removed.
        canary: Requests that a service asks before it uses the version: a text file with a JSON
            object on each line, such as '{"user": 7, "k": 5}'. By default, some users of the data
            set are asked for.
        data: Prepared data set, if it has moved since training.
        trust: Run the files of custom code that the run was trained with, even if you have not
            trained with them here.
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
        to=to,
        run=run,
        version=version,
        keep=keep,
        canary=canary,
        data=data,
        trust=trust,
        threads=threads,
    )

    return application(
        "publish",
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
