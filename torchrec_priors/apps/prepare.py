"""The app `prepare`: turns raw files into a prepared data set."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.common.progress import stages
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.new_corpus import HOW_TO_USE, write_new_corpus
from torchrec_priors.preparation.request import Request
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.remote.uri import place_of


class OnBadRow(StrEnum):
    refuse = "refuse"
    drop = "drop"


class SplitName(StrEnum):
    user = "user"
    time = "time"


class YesNo(StrEnum):
    yes = "yes"
    no = "no"


class EngineName(StrEnum):
    duckdb = "duckdb"
    spark = "spark"


def prepare(
    raw: Annotated[
        str | None, Option(metavar="PATH|URI", help="Folder of the raw files of a corpus.")
    ] = None,
    out: Annotated[
        str | None,
        Option(
            metavar="PATH|URI",
            help="Folder of the prepared data set; written completely or not at all.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        Option(
            help="Name of a corpus (see datasets/), or path of your own corpus file (.py), or of a "
            "file with the options of a table (.toml). [--append: the data set's]"
        ),
    ] = None,
    table: Annotated[
        str | None,
        Option(
            metavar="PATH|URI",
            help="Your own log, without a corpus file: CSV (any delimiter, .gz) or Parquet, a file "
            "or a folder of files.",
        ),
    ] = None,
    user: Annotated[
        str | None,
        Option(
            metavar="COLUMN[=OTHER]",
            help="Column of users' ids in --table; OTHER is its name in the files of --user-label.",
        ),
    ] = None,
    item: Annotated[
        str | None,
        Option(
            metavar="COLUMN[=OTHER]",
            help="Column of items' ids in --table; OTHER is its name in --items.",
        ),
    ] = None,
    time: Annotated[
        str | None, Option(metavar="COLUMN", help="Column of times in --table.")
    ] = None,
    time_format: Annotated[
        str | None,
        Option(
            metavar="FORM",
            help="How times are written: s, ms, us or ns since 1970, iso, a format such as "
            "'%d.%m.%Y %H:%M', or order (numbers that only give the order). [recognised]",
        ),
    ] = None,
    event: Annotated[
        str | None, Option(metavar="COLUMN", help="Column of types of events, such as view or buy.")
    ] = None,
    items: Annotated[
        str | None,
        Option(
            metavar="PATH|URI",
            help="Catalogue of items, in the same forms as --table. [columns of --table]",
        ),
    ] = None,
    title: Annotated[
        str | None, Option(metavar="COLUMN", help="Column of titles in --items. [the ids]")
    ] = None,
    label: Annotated[
        list[str] | None,
        Option(
            metavar="COLUMN[=SEPARATOR]",
            help="Column of labels in --items, which becomes a prior; the first one is the "
            "category. With a separator, an item may have several labels. Can be repeated.",
        ),
    ] = None,
    user_label: Annotated[
        list[str] | None,
        Option(
            metavar="COLUMN=PATH",
            help="Column of labels of users, which becomes a prior, and its file. Can be repeated.",
        ),
    ] = None,
    new: Annotated[
        Path | None,
        Option(
            metavar="FILE.py", help="Only write a commented corpus file to start from, and exit."
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        Option(
            help="E: the last E interactions of a user are the test part, and the E before them "
            "the validation part. [the corpus's]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Option(help="Seed of the permutation that numbers the rows, and of --generate. [0]"),
    ] = None,
    on_bad_row: Annotated[
        OnBadRow, Option(help="Invalid rows: refuse the file, or drop and count the rows.")
    ] = (OnBadRow.refuse),
    option: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=VALUE",
            help="An option of the corpus, as its file explains it. Can be repeated.",
        ),
    ] = None,
    split: Annotated[
        SplitName | None,
        Option(
            help="By user: the last interactions of each user are the test part. By time: the "
            "interactions of all users from --test-from on are the test part. [user]"
        ),
    ] = None,
    validation_from: Annotated[
        str | None,
        Option(metavar="TIME", help="With --split time (UTC). [80 % of the log is before it]"),
    ] = None,
    test_from: Annotated[
        str | None,
        Option(metavar="TIME", help="With --split time (UTC). [90 % of the log is before it]"),
    ] = None,
    append: Annotated[
        bool,
        Option(
            "--append",
            help="Add the raw files to the data set in --out; its settings stay as they were.",
        ),
    ] = False,
    keep_short: Annotated[
        YesNo | None,
        Option(
            help="Keep the interactions of users with short histories for a later --append, which "
            "may make them long enough. [yes, unless the corpus leaves them out by its min_history]"
        ),
    ] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a data set of other settings in --out.")
    ] = False,
    generate: Annotated[
        int | None,
        Option(
            metavar="ROWS",
            help="First generate a log with this number of rows in --raw, if the corpus can.",
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        Option(
            help="Engine: DuckDB in this process, or Spark (an extra). The content of the data set "
            "is the same."
        ),
    ] = EngineName.duckdb,
    memory: Annotated[
        str,
        Option(
            help="Memory that the engine may use; if it is full, the disk is used. For Spark: the "
            "memory of the driver."
        ),
    ] = MEMORY,
    spark_master: Annotated[
        str | None,
        Option(metavar="URL", help="Master of a Spark cluster. [all cores of this machine]"),
    ] = None,
) -> None:
    """Turns raw files into a prepared data set: sequences, items, priors and a manifest."""
    if new is not None:
        write_new_corpus(new)
        print(f"written to {new}: {HOW_TO_USE.format(file=new)}")
        return
    if out is None:
        raise UserError("--out is missing: give the folder of the data set to write")

    target = place_of(out, "--out")
    columns = TableOptions(
        table, user, item, time, time_format, event, items, title, tuple(label or ()),
        tuple(user_label or ()),
    )  # fmt: skip
    if dataset is not None and dataset.endswith(".toml"):
        columns = columns.over(TableOptions.from_toml(Path(dataset)))
        dataset = None
    if columns.is_given():
        _refuse_with_tables({"--dataset": dataset, "--raw": raw, "--generate": generate})

    split_by = None
    if split is not None or validation_from is not None or test_from is not None:
        split_by = SplitBy("user" if split is None else split.value, validation_from, test_from)
    keep = None if keep_short is None else keep_short is YesNo.yes
    request = Request(
        source=None if raw is None else place_of(raw, "--raw"),
        target=target,
        dataset=dataset,
        columns=columns,
        horizon=horizon,
        seed=seed,
        on_bad_row=on_bad_row.value,
        options=tuple(option or ()),
        split=split_by,
        keep_short=keep,
        overwrite=overwrite,
        engine=EngineChoice(engine.value, memory, spark_master),
    )
    with stages() as report:
        if append:
            _refuse_with_append(
                {"--overwrite": overwrite, "--generate": generate, "--keep-short": keep_short}
            )
            lines, written = request.append(report)
        else:
            lines, written = request.prepare(generate, report)

    print("\n".join(lines))
    if written:
        print(f"written to {target}")
    else:
        print(f"{target} already holds these raw files")


def _refuse_with_tables(options: Mapping[str, object]) -> None:
    """Raises UserError if an option is given that cannot be combined with a table."""
    for option, value in options.items():
        if value is not None:
            raise UserError(f"{option} cannot be combined with --table: leave one of them out")


def _refuse_with_append(options: Mapping[str, object]) -> None:
    """Raises UserError if an option is given that cannot be combined with --append."""
    for option, value in options.items():
        if value:
            raise UserError(f"{option} cannot be combined with --append: leave it out")


def main() -> None:
    command.run(prepare, single_process=True)


if __name__ == "__main__":
    main()
