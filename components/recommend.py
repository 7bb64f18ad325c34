"""TorchX component: recommendations for one user.

torchx run -s local_cwd components/recommend.py:recommend --run RUN --user ID
"""

from typing import Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def recommend(
    run: str,
    user: Optional[str] = None,
    history: Optional[str] = None,
    k: int = 10,
    json: bool = False,
    data: Optional[str] = None,
    j: str = "1x1",
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
) -> specs.AppDef:
    """Recommends items with titles, scores and reasons.

    Args:
        run: folder of the run
        user: original id of a user of the data set
        history: original item ids, oldest first, separated by commas, instead of a user
        k: how many items
        json: print JSON
        data: prepared data set, where it has moved since training
        j: [min nodes:]nodes x processes a node
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores a node
        gpu: GPUs a node
        memMB: memory a node, in MB
    """
    options = dict(run=run, user=user, history=history, k=k, json=json, data=data)
    return application("recommend", options, j=j, image=image, h=h, cpu=cpu, gpu=gpu, memMB=memMB)
