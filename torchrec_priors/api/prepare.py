"""Prepares a data set, or adds to one: `tp.prepare` and `tp.append`.

They are calls of what the app `prepare` calls, too: `preparation/request.py` for raw files, and
`preparation/table/prepare_table.py` for tables and data frames.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torchrec_priors.common.progress import stages
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.request import Request
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.preparation.table.prepare_table import TableSource, prepare_table
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.uri import place_of


def prepare(
    dataset: Path | str | None = None,
    *,
    out: Path | str,
    raw: Path | str | None = None,
    table: TableSource | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    time_format: str | None = None,
    event: str | None = None,
    items: TableSource | None = None,
    title: str | None = None,
    labels: Sequence[str] = (),
    user_labels: Mapping[str, TableSource] | None = None,
    name: str | None = None,
    horizon: int | None = None,
    seed: int = 0,
    on_bad_row: Literal["refuse", "drop"] = "refuse",
    options: Mapping[str, Any] | Iterable[str] = (),
    split: Literal["user", "time"] | None = None,
    validation_from: str | None = None,
    test_from: str | None = None,
    generate: int | None = None,
    keep_short: bool | None = None,
    overwrite: bool = False,
    engine: Literal["duckdb", "spark"] = "duckdb",
    memory: str = MEMORY,
    spark_master: str | None = None,
    progress: bool = True,
) -> PreparedData:
    """Prepares a data set from a table of your own, or from the raw files of a corpus.

    If `out` has this data set already, nothing is done.

    Args:
        dataset: the name of a corpus such as "movielens", or the path of a corpus file.
        out: the folder or URI of the data set.
        raw: the folder or URI of the corpus's raw files.
        table: instead of a corpus, the log: a data frame (pandas, Polars or Arrow), or the path or
            URI of files.
        user, item, time, time_format, event, items, title, labels, user_labels, name: the columns
            of the table; see `prepare_table`.
        horizon: the number of a user's next items that a model predicts.
        seed: the seed of the permutation that numbers the rows, and of a generated log.
        on_bad_row: whether bad rows are an error, or left out and counted.
        options: options of the corpus, by name.
        split: "user": the last interactions of each user are the test part. "time": the
            interactions of all users from `test_from` on are.
        validation_from, test_from: with `split="time"`, the times (UTC).
        generate: the number of rows of a log to generate in `raw` first, if the corpus can.
        keep_short: whether short histories are kept for a later `append`.
        overwrite: whether a data set of other settings in `out` is replaced.
        engine: what computes.
        memory: the memory that the engine may use.
        spark_master: the URL of a Spark cluster.
        progress: whether the progress is printed to standard error.

    Returns:
        The data set.

    Raises:
        UserError: raw files, a table, a column or a row are wrong, or arguments contradict each
            other.
    """
    split_by = None
    if split is not None or validation_from is not None or test_from is not None:
        split_by = SplitBy(split or "user", validation_from, test_from)
    choice = EngineChoice(engine, memory, spark_master)
    if table is not None:
        return _of_table(
            table,
            out,
            (user, item, time),
            refused={"dataset": dataset, "raw": raw, "generate": generate, "options": options},
            progress=progress,
            time_format=time_format,
            event=event,
            items=items,
            title=title,
            labels=labels,
            user_labels=user_labels,
            name=name,
            horizon=horizon,
            seed=seed,
            on_bad_row=on_bad_row,
            split=split_by,
            keep_short=keep_short,
            overwrite=overwrite,
            engine=choice,
        )

    columns = TableOptions()
    corpus = None if dataset is None else str(dataset)
    if corpus is not None and corpus.endswith(".toml"):
        columns = TableOptions.from_toml(Path(corpus))
        corpus = None
    request = Request(
        source=None if raw is None else place_of(str(raw), "raw"),
        target=place_of(str(out), "out"),
        dataset=corpus,
        columns=columns,
        horizon=horizon,
        seed=seed,
        on_bad_row=on_bad_row,
        options=_texts(options),
        split=split_by,
        keep_short=keep_short,
        overwrite=overwrite,
        engine=choice,
    )
    with stages(shown=progress) as report:
        request.prepare(generate, report)
    return PreparedData(request.target)


def append(
    data: PreparedData | Path | str,
    raw: Path | str,
    *,
    on_bad_row: Literal["refuse", "drop"] = "refuse",
    memory: str = MEMORY,
    progress: bool = True,
) -> PreparedData:
    """Adds new raw files to a prepared data set, whose settings stay as they were.

    Args:
        data: the prepared data set, or its folder.
        raw: the folder or URI of the new raw files of its corpus.
        on_bad_row: whether bad rows are an error, or left out and counted.
        memory: the memory that the engine may use.
        progress: whether the progress is printed to standard error.

    Returns:
        The data set with the new interactions. If it had them already, nothing is done.

    Raises:
        UserError: raw files are wrong, or the data set cannot be appended to.
    """
    request = Request(
        source=place_of(str(raw), "raw"),
        target=data.folder if isinstance(data, PreparedData) else place_of(str(data), "data"),
        on_bad_row=on_bad_row,
        engine=EngineChoice(memory=memory),
    )
    with stages(shown=progress) as report:
        request.append(report)
    return PreparedData(request.target)


def _of_table(
    table: TableSource,
    out: Path | str,
    columns: tuple[str | None, str | None, str | None],
    *,
    refused: Mapping[str, object],
    progress: bool,
    **more: Any,
) -> PreparedData:
    """Prepares a table whose columns of users, items and times are given."""
    for argument, value in refused.items():
        if value:
            raise UserError(f"{argument} cannot be combined with table: leave one of them out")
    user, item, time = columns
    if user is None or item is None or time is None:
        raise UserError("table needs user, item and time: give the names of its three columns")
    with stages(shown=progress) as report:
        return prepare_table(table, out, user=user, item=item, time=time, report=report, **more)


def _texts(options: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """Returns options of a corpus as texts such as `world=mixed`."""
    if isinstance(options, Mapping):
        return tuple(f"{name}={value}" for name, value in options.items())
    return tuple(options)
