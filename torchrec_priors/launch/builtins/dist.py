"""Replaces TorchX's component `dist.ddp`, so that it fits the apps of this package.

It puts `--` between torchrun's arguments and those of the app, and sets environment variables. The
`--` is necessary because torchrun reads its command line with argparse. Before Python 3.12.7,
argparse mistakes an app's `--run` for an abbreviation of torchrun's `--run-path`, even after the
name of the app.
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs
from torchx.components import dist

# This app is restarted by default, because it can resume from its last checkpoint.
_RESTARTED = "torchrec_priors.apps.train"
_RESTARTS = 3


def ddp(
    *script_args: str,
    script: Optional[str] = None,
    m: Optional[str] = None,
    image: str = torchx.IMAGE,
    name: str = "/",
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 1024,
    j: str = "1x2",
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    max_restarts: Optional[int] = None,
    rdzv_port: int = 29500,
    rdzv_backend: str = "c10d",
    mounts: Optional[List[str]] = None,
    debug: bool = False,
    tee: int = 3,
) -> specs.AppDef:
    """Runs a script or module on several processes under torchrun, as TorchX's own `ddp` does.

    Args:
        script_args: arguments of the script or module
        script: script to run
        m: module to run
        image: image to run in, if the scheduler uses one
        name: {experiment}/{run}
        h: a registered named resource
        cpu: cores per node
        gpu: GPUs per node
        memMB: memory per node, in MB
        j: [min nodes:]nodes x processes per node
        env: environment variables, as A=1,B=2
        max_retries: how often the scheduler may retry
        max_restarts: how often torchrun may start all processes again; 3 for training, otherwise 0
        rdzv_port: port of the rendezvous on the first node, with several nodes
        rdzv_backend: rendezvous backend, with several nodes
        mounts: mounts of the container
        debug: whether to set torch's debug flags
        tee: streams to show and to keep in files; 0 none, 1 output, 2 errors, 3 both
    """
    if m is not None and m.startswith("torchrec_priors."):
        if script_args and script_args[0] != "--":
            script_args = ("--", *script_args)

        processes = int(j.rsplit("x", 1)[-1])
        # Without OMP_NUM_THREADS, torchrun gives each process only one thread.
        cores = specs.resource(cpu=cpu, gpu=gpu, memMB=memMB, h=h).cpu
        # If agents shared their store with the ranks, a node that joins again after a failure would
        # wait for an address that never comes.
        ours = {
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "OMP_NUM_THREADS": str(max(1, cores // processes)),
        }
        env = {**ours, **(env or {})}

    if max_restarts is None and m == _RESTARTED:
        max_restarts = _RESTARTS
    if max_restarts is not None:
        # TorchX's ddp has no argument for this option, but torchrun also reads its options from
        # environment variables PET_*.
        env = {"PET_MAX_RESTARTS": str(max_restarts), **(env or {})}

    return dist.ddp(
        *script_args,
        script=script,
        m=m,
        image=image,
        name=name,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=env,
        max_retries=max_retries,
        rdzv_port=rdzv_port,
        rdzv_backend=rdzv_backend,
        mounts=mounts,
        debug=debug,
        tee=tee,
    )
