"""TorchX component of the app `recommend`, written by `make components`: do not edit.

torchx run -s local_cwd components/recommend.py:recommend --run RUN --user ID
torchx run -s local_cwd components/recommend.py:recommend -j 1x4 --run RUN --users all --out PARQUET
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def recommend(
    run: str,
    user: Optional[str] = None,
    history: Optional[str] = None,
    session: Optional[str] = None,
    group: Optional[List[str]] = None,
    strict: bool = False,
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
    """Recommends items for one user, for many users, or for a given history.

    Args:
        run: Folder of a trained run, or its URI: hf://ORG/NAME[@REVISION] on the Hugging Face hub.
        user: Original id of a user in the data set.
        history: Original item ids, oldest first, separated by commas. Put an id that contains a
            comma in quotes. With --user, it replaces the history of the user, whose groups are
            kept.
        session: Items that came after the history, written like --history.
        group: PRIOR=GROUP: A group that the user is in, such as 'gender=F'. It replaces the user's
            groups for this prior in the data set. Separate several with commas.
        strict: Reject users, items and groups that the data set or the run lacks. By default they
            are skipped and counted, and a user without a history gets what is popular.
        users: Users to recommend to: a text file with an original user id on each line, a Parquet
            file with a column user_id, or `all` for every user in the data set. The recommendations
            are written to --out.
        out: With --users: the file to write. It has one row for each user, in the order of --users.
        k: Number of items for each user.
        allow: Recommend only these items: a text file with an original item id on each line, or a
            Parquet file with a column item_id.
        deny: Never recommend these items: a file in the same form as for --allow.
        only: Use only the heads with this name: a path ('long-term / Comedy'), the first groups of
            a path, a group of any level ('Comedy'), or a prior and its group ('genre: Comedy').
            Separate several with commas.
        mute: Do not use the heads with this name (see --only). Separate several with commas.
        boost: HEAD=X: Multiply the probabilities of the heads with this name (see --only) by X,
            which must be above 0. This adds log(X) to their scores; it is an exact multiplication
            only if scores are calibrated (evaluation.calibrated). If a head is boosted several
            times, the factors are multiplied. Separate several with commas.
        at_least: GROUP=SHARE: Take at least this share of the k items (see -k) from a group, for
            example 'Documentary=0.3'. The best items of the group are taken. Up to 5 groups can
            have a share. Separate several with commas.
        json: Print JSON.
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
        user=user,
        history=history,
        session=session,
        group=group,
        strict=strict,
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
        threads=threads,
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
