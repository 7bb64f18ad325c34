"""TorchX component of the app `prepare`, written by `make components`: do not edit.

torchx run -s local_cwd components/prepare.py:prepare --dataset movielens --raw RAW --out DATA
torchx run -s local_cwd components/prepare.py:prepare --dataset SHOP.toml --out DATA
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def prepare(
    raw: Optional[str] = None,
    out: Optional[str] = None,
    dataset: Optional[str] = None,
    table: Optional[str] = None,
    user: Optional[str] = None,
    item: Optional[str] = None,
    time: Optional[str] = None,
    time_format: Optional[str] = None,
    event: Optional[str] = None,
    items: Optional[str] = None,
    title: Optional[str] = None,
    label: Optional[List[str]] = None,
    user_label: Optional[List[str]] = None,
    new: Optional[str] = None,
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
    """Turns raw files into a prepared data set: sequences, items, priors and a manifest.

    The scheduler starts it as one process.

    Args:
        raw: Folder of the raw files of a corpus.
        out: Folder of the prepared data set; written completely or not at all.
        dataset: Name of a corpus (see datasets/), or path of your own corpus file (.py), or of a
            file with the options of a table (.toml). [--append: the data set's]
        table: Your own log, without a corpus file: CSV (any delimiter, .gz) or Parquet, a file or a
            folder of files.
        user: COLUMN[=OTHER]: Column of users' ids in --table; OTHER is its name in the files of
            --user_label.
        item: COLUMN[=OTHER]: Column of items' ids in --table; OTHER is its name in --items.
        time: Column of times in --table.
        time_format: How times are written: s, ms, us or ns since 1970, iso, a format such as
            '%%d.%%m.%%Y %%H:%%M', or order (numbers that only give the order). [recognised]
        event: Column of types of events, such as view or buy.
        items: Catalogue of items, in the same forms as --table. [columns of --table]
        title: Column of titles in --items. [the ids]
        label: COLUMN[=SEPARATOR]: Column of labels in --items, which becomes a prior; the first one
            is the category. With a separator, an item may have several labels. Separate several
            with commas.
        user_label: COLUMN=PATH: Column of labels of users, which becomes a prior, and its file.
            Separate several with commas.
        new: Only write a commented corpus file to start from, and exit.
        horizon: E: the last E interactions of a user are the test part, and the E before them the
            validation part. [the corpus's]
        seed: Seed of the permutation that numbers the rows, and of --generate. [0]
        on_bad_row: Invalid rows: refuse the file, or drop and count the rows. One of: refuse, drop.
        option: KEY=VALUE: An option of the corpus, as its file explains it. Separate several with
            commas.
        split: By user: the last interactions of each user are the test part. By time: the
            interactions of all users from --test_from on are the test part. One of: user, time.
            [user]
        validation_from: With --split time (UTC). [80 %% of the log is before it]
        test_from: With --split time (UTC). [90 %% of the log is before it]
        append: Add the raw files to the data set in --out; its settings stay as they were.
        keep_short: Keep the interactions of users with short histories for a later --append, which
            may make them long enough. One of: yes, no. [yes, unless the corpus leaves them out by
            its min_history]
        overwrite: Replace a data set of other settings in --out.
        generate: First generate a log with this number of rows in --raw, if the corpus can.
        engine: Engine: DuckDB in this process, or Spark (an extra). The content of the data set is
            the same. One of: duckdb, spark.
        memory: Memory that the engine may use; if it is full, the disk is used. For Spark: the
            memory of the driver.
        spark_master: Master of a Spark cluster. [all cores of this machine]
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores.
        memMB: Memory, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
    """
    options = dict(
        raw=raw,
        out=out,
        dataset=dataset,
        table=table,
        user=user,
        item=item,
        time=time,
        time_format=time_format,
        event=event,
        items=items,
        title=title,
        label=label,
        user_label=user_label,
        new=new,
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
