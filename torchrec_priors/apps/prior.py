"""The app `prior`: adds a prior to a prepared data set, lists its priors, or removes one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.api.add_prior import make_prior
from torchrec_priors.apps import command
from torchrec_priors.common.progress import stages
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.summary import prior_line
from torchrec_priors.preparation.describe import prior_lines, words_of
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.priors.name_groups import name_groups
from torchrec_priors.preparation.priors.remove_prior import remove_prior
from torchrec_priors.preparation.priors.request import PriorRequest
from torchrec_priors.prepared.data_set import PreparedData


class Kind(StrEnum):
    graph = "graph"
    user = "user"
    item = "item"
    list = "list"
    remove = "remove"
    words = "words"


class Weights(StrEnum):
    shared = "shared"
    cosine = "cosine"
    pmi = "pmi"
    equal = "equal"


def prior(
    kind: Annotated[
        Kind,
        Argument(
            help="graph: communities of items. user: communities of users, or groups from --by or "
            "--from. item: groups from --from. list: print the priors. remove: remove one that was "
            "added. words: say what its groups are called in reasons that people read."
        ),
    ],
    data: Annotated[str, Option(metavar="PATH|URI", help="Folder of the prepared data set.")],
    name: Annotated[
        str | None, Option(help="Name of the prior, as in priors.tree. [list: all priors]")
    ] = None,
    from_file: Annotated[
        Path | None,
        Option(
            "--from",
            "--from-file",
            help="CSV file with a header, or Parquet file, with the columns item_id or user_id, "
            "and label.",
        ),
    ] = None,
    by: Annotated[
        str | None, Option(help="user: take the groups of this user prior, and merge small ones.")
    ] = None,
    last: Annotated[
        int | None,
        Option(
            help="Number of each user's latest training interactions from which edges are made. "
            "[graph: 50, user: all]"
        ),
    ] = None,
    weights: Annotated[
        Weights | None,
        Option(
            help="Weight of an edge. shared: number of users or items that its ends share. cosine: "
            "this number, divided by the square root of the product of the two ends' own numbers. "
            "pmi: how much more the ends share than by chance. equal: 1. [pmi]"
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        Option(
            help="Number of strongest neighbours that each item or user keeps; an edge stays if "
            "one of its ends keeps it. [graph: all, user: 20]"
        ),
    ] = None,
    resolution: Annotated[
        float | None, Option(help="Resolution of Leiden; a larger one gives more communities. [1]")
    ] = None,
    groups: Annotated[
        int | None,
        Option(help="Final number of groups, including the remainder."),
    ] = None,
    join: Annotated[
        bool | None,
        Option(
            "--join/--no-join",
            help="Whether communities that are too small or too many are joined with those that "
            "they share most with. --no-join: small ones form one group, and --groups searches for "
            "a resolution that gives this number of groups. [join]",
        ),
    ] = None,
    min_size: Annotated[
        int | None,
        Option(help="Least number of members of a group. [communities: 10, --by: 1]"),
    ] = None,
    users_per_item: Annotated[
        int | None,
        Option(
            help="user: largest number of users that are connected because of one item; they are "
            "drawn at random. [2000]"
        ),
    ] = None,
    seed: Annotated[int, Option(help="Seed of Leiden and of random draws.")] = 0,
    memory: Annotated[
        str,
        Option(help="Memory for counting shared users or items; if it is full, the disk is used."),
    ] = MEMORY,
    words: Annotated[
        str | None,
        Option(
            help="words: what a group is called, with {} in the place of its name, such as '{} "
            "films' or '{} shoppers'. An empty text brings the usual words back."
        ),
    ] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a prior of this name that was added before.")
    ] = False,
) -> None:
    """Adds a prior to a prepared data set, lists its priors, removes one, or names its groups.

    The groups of an added prior are communities found in the training log, the values of an
    attribute, or labels from a file of yours.
    """
    if kind is Kind.list:
        print("\n".join(prior_lines(PreparedData(data))))
        return
    if name is None:
        raise UserError("--name is missing: give the name of the prior")
    if kind is Kind.remove:
        place = PreparedData(data).folder
        info = remove_prior(place, name)
        print(f"removed from {place}: {prior_line(info)}")
        return

    if (words is not None) != (kind is Kind.words):
        raise UserError(
            "--words says what the groups of a prior are called: write prior words --words '{} "
            "films'"
        )
    if words is not None:
        info = name_groups(PreparedData(data).folder, name, words)
        print(f"{prior_line(info)}{words_of(info)}")
        return

    request = PriorRequest(
        kind=kind.value,
        name=name,
        from_file=from_file,
        by=by,
        last=last,
        weights=None if weights is None else weights.value,
        neighbours=neighbours,
        resolution=resolution,
        groups=groups,
        join=join,
        min_size=min_size,
        users_per_item=users_per_item,
        seed=seed,
        memory=memory,
    )
    prepared = PreparedData(data)
    with stages() as report:
        messages, manifest = make_prior(prepared, request, overwrite=overwrite, report=report)

    # The manifest has the sizes of the groups as they were written.
    info = manifest.prior(name)
    print("\n".join([*messages, prior_line(info)]))
    print(f"written to {prepared.folder / info.path}")


def main() -> None:
    command.run(prior, single_process=True)


if __name__ == "__main__":
    main()
