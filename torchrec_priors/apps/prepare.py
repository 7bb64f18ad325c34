"""The app `prepare`: turns raw files into a prepared data set."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.progress import stage_bar
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append as append_to
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.build.into_a_store import prepare_there
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.build.summary import summary
from torchrec_priors.preparation.corpus import find_corpus, generate_log
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.options import divide_options, read_options
from torchrec_priors.preparation.prepare import Settings
from torchrec_priors.preparation.prepare import prepare as prepare_locally
from torchrec_priors.remote.mirror import mirror
from torchrec_priors.remote.uri import Uri, place_of


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
    raw: Annotated[str, Option(metavar="PATH|URI", help="Folder of the raw files.")],
    out: Annotated[
        str,
        Option(
            metavar="PATH|URI",
            help="Folder of the prepared data set; written completely or not at all.",
        ),
    ],
    dataset: Annotated[
        str | None,
        Option(
            help="Name of a corpus (see datasets/), or path of your own corpus file. "
            "[--append: the data set's]"
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
    source = place_of(raw, "--raw")
    target = place_of(out, "--out")
    if generate is not None and isinstance(source, Uri):
        raise UserError(
            f"--generate writes into a local folder, not to '{source}': give another --raw"
        )

    engine_choice = EngineChoice(engine.value, memory, spark_master)
    options = tuple(option or ())
    keep = None
    if keep_short is not None:
        keep = keep_short is YesNo.yes
    split_by = None
    if split is not None or validation_from is not None or test_from is not None:
        split_by = SplitBy("user" if split is None else split.value, validation_from, test_from)

    already = False
    with stage_bar() as bar:
        report = bar.set_description_str
        if append:
            _refuse_with_append(
                {"--overwrite": overwrite, "--generate": generate, "--keep-short": keep_short}
            )
            if isinstance(target, Uri):
                raise UserError(
                    f"--append needs a local folder, not '{target}': append to a copy of it"
                )
            given = Given(dataset, horizon, seed, options, split_by)
            if isinstance(source, Uri):
                source = mirror(source, "--raw", report)
            grown = append_to(
                source, target, given, on_bad_row=on_bad_row.value, report=report, on=engine_choice
            )
            already = grown.already
            text = "\n".join([summary(grown.manifest, target), *grown.messages])
        else:
            if dataset is None:
                raise UserError("--dataset: name a corpus, or the file of your own")
            of_log: tuple[str, ...] = ()
            if generate is not None:
                options, of_log = divide_options(find_corpus(dataset), options)
            settings = Settings(
                dataset,
                # For a URI, the local copy replaces this path after the options are checked.
                source if isinstance(source, Path) else Path(),
                horizon,
                seed or 0,
                on_bad_row.value,
                options,
                split_by or SplitBy(),
                keep,
            )

            # Options are read first, so that a mistake in them is found before anything is
            # generated or downloaded.
            read_options(find_corpus(dataset), options)
            if generate is not None:
                generate_log(dataset, settings.raw, generate, settings.seed, report, of_log)
            if isinstance(source, Uri):
                settings = replace(settings, raw=mirror(source, "--raw", report))

            how: dict[str, Any] = {"overwrite": overwrite, "report": report, "on": engine_choice}
            if isinstance(target, Uri):
                text = prepare_there(settings, target, **how)
            else:
                text = summary(prepare_locally(settings, target, **how), target)

    print(text)
    if already:
        print(f"{target} already holds these raw files")
    else:
        print(f"written to {target}")


def _refuse_with_append(options: Mapping[str, object]) -> None:
    """Raises UserError if an option is given that cannot be combined with --append."""
    for option, value in options.items():
        if value:
            raise UserError(f"{option} cannot be combined with --append: leave it out")


def main() -> None:
    command.run(prepare, single_process=True)


if __name__ == "__main__":
    main()
