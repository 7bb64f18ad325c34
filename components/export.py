"""TorchX component of the app `export`, written by `make components`: do not edit.

torchx run -s local_cwd components/export.py:export --run RUN --out FOLDER
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def export(
    run: str,
    out: str,
    data: Optional[str] = None,
    trust: bool = False,
    format: Optional[str] = None,
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
    """Writes the best checkpoint as plain files.

    Item vectors are written as Parquet with original ids, and other weights as safetensors.

    Args:
        run: Folder of a trained run, or its URI: hf://ORG/NAME[@REVISION] on the Hugging Face hub.
        out: Folder to write. It must be empty, or not exist yet.
        data: Prepared data set, if it has moved since training.
        trust: Run the files of custom code that the run was trained with, even if you have not
            trained with them here.
        format: Also write the encoder and the heads as a graph, from the vectors of a history to
            queries: for onnxruntime, or compiled by PyTorch for this kind of machine. The graph is
            compared with the model. One of: onnx, aoti.
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
        out=out,
        data=data,
        trust=trust,
        format=format,
        threads=threads,
    )

    return application(
        "export",
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
