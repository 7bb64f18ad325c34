"""Raw files -> prepared data set."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm
from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import find_corpus, find_generator
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.into_a_store import prepare_there
from torchrec_priors.preparation.options import read_options
from torchrec_priors.preparation.prepare import Settings
from torchrec_priors.preparation.prepare import prepare as make
from torchrec_priors.preparation.split import SplitBy
from torchrec_priors.preparation.summary import summary
from torchrec_priors.remote.mirror import mirror
from torchrec_priors.remote.uri import Uri, place_of


class OnBadRow(StrEnum):
    refuse = "refuse"
    drop = "drop"


class SplitName(StrEnum):
    user = "user"
    time = "time"


class EngineName(StrEnum):
    duckdb = "duckdb"
    spark = "spark"


def prepare(
    dataset: Annotated[str, Option(help="Name of a corpus (see datasets/), or the path of your own corpus file.")],
    raw: Annotated[str, Option(metavar="PATH|URI", help="Folder of the raw files.")],
    out: Annotated[str, Option(metavar="PATH|URI", help="Folder of the prepared data set; made whole or not at all.")],
    horizon: Annotated[
        int | None,
        Option(help="E: a user's last E interactions are test, the E before validation. [corpus's own]"),
    ] = None,
    seed: Annotated[int, Option(help="Seed of the permutation that numbers the rows, and of --generate.")] = 0,
    on_bad_row: Annotated[OnBadRow, Option(help="Rows that cannot be read: refuse the file, or drop and count.")] = (
        OnBadRow.refuse
    ),
    option: Annotated[
        list[str] | None,
        Option(metavar="KEY=VALUE", help="An option of the corpus, as its file explains it; may be given again."),
    ] = None,
    split: Annotated[
        SplitName, Option(help="By user: each one's last E are test. By time: what lies after --test-from is, for all.")
    ] = SplitName.user,
    validation_from: Annotated[
        str | None, Option(metavar="TIME", help="With --split time (UTC). [80 % of the log lie before it]")
    ] = None,
    test_from: Annotated[
        str | None, Option(metavar="TIME", help="With --split time (UTC). [90 % of the log lie before it]")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a data set of other settings in --out.")] = False,
    generate: Annotated[
        int | None,
        Option(metavar="ROWS", help="First make up a log of so many rows in --raw, with a corpus that can."),
    ] = None,
    engine: Annotated[
        EngineName, Option(help="What computes: DuckDB in this process, or Spark (an extra); the content is the same.")
    ] = EngineName.duckdb,
    memory: Annotated[
        str, Option(help="What the engine may use; beyond it, it spills to disk. For Spark: that of the driver.")
    ] = MEMORY,
    spark_master: Annotated[
        str | None, Option(metavar="URL", help="A Spark cluster's master. [all cores of this machine]")
    ] = None,
) -> None:
    """Turns raw files into a prepared data set: sequences, items, priors and a manifest."""
    source, target = place_of(raw, "--raw"), place_of(out, "--out")
    if generate is not None and isinstance(source, Uri):
        raise UserError(f"--generate writes into a local folder, not to '{source}': give another --raw")
    local = source if isinstance(source, Path) else Path()
    split_by = SplitBy(split.value, validation_from, test_from)
    settings = Settings(dataset, local, horizon, seed, on_bad_row.value, tuple(option or ()), split_by)
    read_options(find_corpus(dataset), settings.options)
    on = EngineChoice(engine.value, memory, spark_master)
    with tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=None) as bar:
        if generate is not None:
            find_generator(dataset)(local, generate, seed, bar.set_description_str)
        if isinstance(source, Uri):
            settings = replace(settings, raw=mirror(source, "--raw", bar.set_description_str))
        how: dict[str, Any] = {"overwrite": overwrite, "report": bar.set_description_str, "on": on}
        if isinstance(target, Uri):
            said = prepare_there(settings, target, **how)
        else:
            said = summary(make(settings, target, **how), target)
    print(said)
    print(f"written to {target}")


def main() -> None:
    command.run(prepare)


if __name__ == "__main__":
    main()
