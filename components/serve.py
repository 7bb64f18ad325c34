"""TorchX component of the app `serve`, written by `make components`: do not edit.

torchx run -s local_cwd components/serve.py:serve --run RUN --host 0.0.0.0 --token_file FILE
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def serve(
    run: Optional[str] = None,
    follow: Optional[str] = None,
    poll_s: float = 5.0,
    host: str = "127.0.0.1",
    port: int = 8000,
    state: Optional[str] = None,
    token_file: Optional[str] = None,
    open: bool = False,
    cors: Optional[List[str]] = None,
    queue: int = 512,
    batch: int = 64,
    wait_ms: float = 2.0,
    deadline_ms: int = 1000,
    drain_s: float = 20.0,
    max_body: int = 1000000,
    cache_mb: int = 256,
    name: Optional[str] = None,
    data: Optional[str] = None,
    trust: bool = False,
    threads: Optional[int] = None,
    j: str = "1x1",
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Answers requests for recommendations over HTTP, until it is ended.

    Several processes serve one model that is too large for one: the first of them speaks HTTP.

    Args:
        run: Folder of a trained run, or its URI: hf://ORG/NAME[@REVISION] on the Hugging Face hub.
        follow: Folder of published models, in place of --run. The service changes to each version
            that is published there.
        poll_s: Seconds between two looks at the folder of --follow.
        host: Address to listen on. By default only this machine can reach the service. Other
            addresses need --token_file or --open.
        port: Port to listen on; 0 for any free port.
        state: Where events of users are kept: sqlite:PATH, redis://HOST:PORT/NUMBER, or none: for
            nowhere. [state/users.sqlite in the folder of the run]
        token_file: File with the token that every call must carry.
        open: Let everybody who can reach the address call the service.
        cors: Let pages of this origin call the service, such as https://shop.example. Separate
            several with commas.
        queue: The most requests that wait. Further ones are refused (429).
        batch: The most requests that are answered together.
        wait_ms: The most milliseconds that a request waits for others.
        deadline_ms: Milliseconds in which a request is answered, unless it says timeout_ms.
        drain_s: The most seconds that requests in flight get when the service is ended.
        max_body: The most bytes of a request's body.
        cache_mb: The most memory, in MB, for users who were asked for before. While their histories
            stay the same, they are answered faster.
        name: Name of the model in answers. [name of the folder]
        data: Prepared data set, if it has moved since training.
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
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        run=run,
        follow=follow,
        poll_s=poll_s,
        host=host,
        port=port,
        state=state,
        token_file=token_file,
        open=open,
        cors=cors,
        queue=queue,
        batch=batch,
        wait_ms=wait_ms,
        deadline_ms=deadline_ms,
        drain_s=drain_s,
        max_body=max_body,
        cache_mb=cache_mb,
        name=name,
        data=data,
        trust=trust,
        threads=threads,
    )

    return application(
        "serve",
        options,
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
