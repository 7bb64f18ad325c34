"""TorchX component: raw files -> prepared data set.

torchx run -s local_cwd components/prepare.py:prepare --dataset movielens --raw RAW --out DATA
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def prepare(
    raw: str,
    out: str,
    dataset: Optional[str] = None,
    horizon: Optional[int] = None,
    seed: Optional[int] = None,
    on_bad_row: str = "refuse",
    option: Optional[List[str]] = None,
    split: Optional[str] = None,
    validation_from: Optional[str] = None,
    test_from: Optional[str] = None,
    append: bool = False,
    keep_short: Optional[str] = None,
    overwrite: bool = False,
    generate: Optional[int] = None,
    engine: str = "duckdb",
    memory: str = "2GB",
    spark_master: Optional[str] = None,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 2,
    memMB: int = 4096,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Turns raw files into a prepared data set, in one process.

    Args:
        raw: folder of the raw files
        out: folder of the prepared data set
        dataset: name of a corpus, or path of a corpus file
        horizon: E; the corpus's own by default
        seed: of the permutation that numbers the rows, and of generate
        on_bad_row: refuse or drop
        option: key=value: options of the corpus, separated by commas
        split: user or time; user by default
        validation_from: time (UTC), with split time
        test_from: time (UTC), with split time
        append: add the raw files to the data set in out
        keep_short: yes or no: whether what users of short histories did is kept, for a later append
        overwrite: replace a data set of other settings in --out
        generate: first make up a log of so many rows in --raw, with a corpus that can
        engine: duckdb or spark
        memory: what the engine may use
        spark_master: URL of a Spark cluster's master
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores
        memMB: memory in MB
        max_retries: how often the scheduler may start it again
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(
        raw=raw,
        out=out,
        dataset=dataset,
        horizon=horizon,
        seed=seed,
        on_bad_row=on_bad_row,
        option=option,
        split=split,
        validation_from=validation_from,
        test_from=test_from,
        append=append,
        keep_short=keep_short,
        overwrite=overwrite,
        generate=generate,
        engine=engine,
        memory=memory,
        spark_master=spark_master,
    )
    return application(
        "prepare",
        options,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
