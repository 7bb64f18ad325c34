"""TorchX component: recommendations for one user, or for many into a file.

torchx run -s local_cwd components/recommend.py:recommend --run RUN --user ID
torchx run -s local_cwd components/recommend.py:recommend -j 1x4 --run RUN --users all --out recommendations.parquet
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def recommend(
    run: str,
    user: Optional[str] = None,
    history: Optional[str] = None,
    users: Optional[str] = None,
    out: Optional[str] = None,
    k: int = 10,
    allow: Optional[str] = None,
    deny: Optional[str] = None,
    only: Optional[List[str]] = None,
    mute: Optional[List[str]] = None,
    boost: Optional[List[str]] = None,
    at_least: Optional[List[str]] = None,
    json: bool = False,
    data: Optional[str] = None,
    trust: bool = False,
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
    """Recommends items with titles, scores and reasons.

    Args:
        run: folder of the run
        user: original id of a user of the data set
        history: original item ids, oldest first, separated by commas, instead of a user
        users: file with a user id a line, or Parquet with user_id, or `all`: many users at once, into a file
        out: Parquet file to write, with users
        k: how many items
        allow: file with an item id a line, or Parquet with item_id: recommend only these
        deny: such a file of items never to recommend
        only: let these heads alone answer, separated by commas: paths, or groups of any level
        mute: let these heads not answer
        boost: name=x: multiply the probability that these heads give by x
        at_least: name=share: let at least this share of the items be of a group of items
        json: print JSON
        data: prepared data set, where it has moved since training
        trust: run files of own code that the run was trained with, though you have not trained with them here
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
    options = dict(
        run=run,
        user=user,
        history=history,
        users=users,
        out=out,
        k=k,
        allow=allow,
        deny=deny,
        only=only,
        mute=mute,
        boost=boost,
        at_least=at_least,
        json=json,
        data=data,
        trust=trust,
    )
    return application(
        "recommend",
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
