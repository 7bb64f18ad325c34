"""Prepares a data set from tables: files, folders, URIs, or data frames."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.request import Request
from torchrec_priors.preparation.table.description import ItemLabel, Key
from torchrec_priors.preparation.table.frames import Frame, write_frame
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.uri import Uri, place_of

# The path or URI of a file or folder, or a data frame.
TableSource = str | Path | Frame


def prepare_table(
    log: TableSource,
    out: str | Path,
    *,
    user: str,
    item: str,
    time: str,
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
    split: SplitBy | None = None,
    keep_short: bool | None = None,
    overwrite: bool = False,
    engine: EngineChoice = EngineChoice(),
    report: Callable[[str], None] = lambda _: None,
) -> PreparedData:
    """Prepares a data set from a log in a table, as the command `prepare --table` does.

    If `out` already holds this data set, nothing is done.

    Args:
        log: the interactions.
        out: the folder or URI of the data set.
        user: the column of users' ids, or "COLUMN=NAME IN user_labels".
        item: the column of items' ids, or "COLUMN=NAME IN items".
        time: the column of times.
        time_format: how times are written, as `--time-format`. By default it is recognised.
        event: the column of types of events.
        items: the catalogue. By default, titles and labels are columns of the log.
        title: the column of titles.
        labels: the columns of labels of items, each "COLUMN" or "COLUMN=SEPARATOR".
        user_labels: the labels of users: by the name of the column, the table that has it.
        name: the name of the data set. By default, that of the log's file.
        horizon: the number of a user's next items that a model predicts. By default 2.
        seed: the seed of the permutation that numbers the rows.
        on_bad_row: whether bad rows are an error, or left out and counted.
        split: how the log is split. By default by user.
        keep_short: whether short histories are kept for a later append.
        overwrite: whether a data set of other settings in `out` is replaced.
        engine: the engine that computes.
        report: called with the name of each stage.

    Returns:
        The data set. Its manifest says what was read, and how it was understood.

    Raises:
        UserError: a table, a column or a row is wrong.
    """
    target = place_of(str(out), "out")
    if isinstance(target, Uri):
        beside = default_cache().subfolder("scratch")
    else:
        beside = target.absolute().parent
        beside.mkdir(parents=True, exist_ok=True)

    item_key = Key.read(item)
    user_key = Key.read(user)
    of_items = [ItemLabel.read(label).column for label in labels]
    if title is not None:
        of_items.append(title)
    of_log = [user_key.log, item_key.log, time]
    if event is not None:
        of_log.append(event)
    if items is None:
        of_log += of_items

    with scratch_folder(beside, "frames") as scratch:

        def path(source: TableSource, columns: Sequence[str], argument: str) -> str:
            """Returns the path or URI of a table. A data frame is written to a file for this."""
            if isinstance(source, str | Path):
                return str(source)
            file = scratch / f"{argument}.parquet"
            write_frame(source, list(dict.fromkeys(columns)), file, argument)
            return str(file)

        of_users = [
            f"{column}={path(source, [user_key.other, column], f'user_label_{number}')}"
            for number, (column, source) in enumerate((user_labels or {}).items())
        ]
        options = TableOptions(
            table=path(log, of_log, "log"),
            user=user,
            item=item,
            time=time,
            time_format=time_format,
            event=event,
            items=None if items is None else path(items, [item_key.other, *of_items], "items"),
            title=title,
            label=tuple(labels),
            user_label=tuple(of_users),
            name=name,
        )
        request = Request(
            source=None,
            target=target,
            columns=options,
            horizon=horizon,
            seed=seed,
            on_bad_row=on_bad_row,
            split=split,
            keep_short=keep_short,
            overwrite=overwrite,
            engine=engine,
        )
        request.prepare(None, report)
    return PreparedData(target)
