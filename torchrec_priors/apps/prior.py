"""Adds a prior to a prepared data set."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.progress import stage_bar
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
    unweighted: Annotated[
        bool,
        Option(
            "--unweighted/--weighted",
            help="Every edge weighs 1, instead of the number that its ends share.",
        ),
    ] = False,
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
        Option(help="Final number of groups; the resolution that gives it is searched for."),
    ] = None,
    min_size: Annotated[
        int | None,
        Option(help="Groups with fewer members are merged into one. [communities: 10, --by: 1]"),
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
        unweighted=unweighted,
        neighbours=neighbours,
        resolution=resolution,
        groups=groups,
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

    with stage_bar() as bar:
        grouping = request.make(prepared, bar.set_description_str)
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
