"""Adds a prior to a prepared data set."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.progress import stages
from torchrec_priors.preparation.build.summary import prior_line
from torchrec_priors.preparation.engine.on_duckdb import MEMORY
from torchrec_priors.preparation.priors.add_prior import add_prior, add_prior_there, check_free
from torchrec_priors.preparation.priors.request import PriorRequest
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Uri


class Kind(StrEnum):
    graph = "graph"
    user = "user"
    item = "item"


class Weights(StrEnum):
    shared = "shared"
    cosine = "cosine"
    pmi = "pmi"
    equal = "equal"


def prior(
    kind: Annotated[
        Kind,
        Argument(
            help="graph: communities of items; user: communities of users, or --by, or --from; "
            "item: --from."
        ),
    ],
    data: Annotated[str, Option(metavar="PATH|URI", help="Folder of the prepared data set.")],
    name: Annotated[str, Option(help="Name of the prior, as in priors.tree.")],
    from_file: Annotated[
        Path | None,
        Option(
            "--from",
            "--from-file",
            help="CSV with a header or Parquet: item_id or user_id, and label.",
        ),
    ] = None,
    by: Annotated[
        str | None, Option(help="user: the user prior whose groups are taken, small ones merged.")
    ] = None,
    last: Annotated[
        int | None,
        Option(
            help="Number of a user's latest training interactions that make edges. [graph: 50, "
            "user: all]"
        ),
    ] = None,
    weights: Annotated[
        Weights | None,
        Option(
            help="Weight of an edge. shared: how many both ends share; cosine: divided by the "
            "root of how many each has; pmi: how much more than by chance; equal: 1. [pmi]"
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        Option(
            help="Strongest neighbours that each item or user keeps; an edge needs one end. "
            "[graph: all, user: 20]"
        ),
    ] = None,
    resolution: Annotated[
        float | None, Option(help="Resolution of Leiden: the larger, the more communities. [1]")
    ] = None,
    groups: Annotated[
        int | None,
        Option(help="Final number of groups, the remainder included."),
    ] = None,
    join: Annotated[
        bool | None,
        Option(
            "--join/--no-join",
            help="Whether communities that are too small, or too many, join those that they share "
            "most with. --no-join: small ones form one group, and --groups looks for a "
            "resolution. [join]",
        ),
    ] = None,
    min_size: Annotated[
        int | None,
        Option(help="Least number of members of a group. [communities: 10, --by: 1]"),
    ] = None,
    users_per_item: Annotated[
        int | None,
        Option(help="user: number of users, drawn at random, that an item joins at most. [2000]"),
    ] = None,
    seed: Annotated[int, Option(help="Seed of Leiden and of what is drawn.")] = 0,
    memory: Annotated[
        str, Option(help="Memory for counting who shares what; beyond it, that spills to disk.")
    ] = MEMORY,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a prior of this name that was added before.")
    ] = False,
) -> None:
    """Adds a prior to a prepared data set.

    It holds communities of the training log, an attribute, or a mapping of your own.
    """
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
    # What would fail at the end is checked before the computation.
    if isinstance(prepared.folder, Uri):
        Store(prepared.folder, "--data").require_writable()
    check_free(prepared.manifest, name, overwrite)

    with stages() as report:
        grouping = request.make(prepared, report)
        if isinstance(prepared.folder, Uri):
            manifest = add_prior_there(
                prepared.folder, name, grouping, prepared.manifest, overwrite=overwrite
            )
        else:
            manifest = add_prior(
                prepared.folder, name, grouping, prepared.manifest, overwrite=overwrite
            )

    # Read back from the manifest, which has the sizes of groups as they were written.
    info = manifest.prior(name)
    print("\n".join([*grouping.messages, prior_line(info)]))
    print(f"written to {prepared.folder / info.path}")


def main() -> None:
    command.run(prior, single_process=True)


if __name__ == "__main__":
    main()
