"""The app `describe`: says what a prepared data set contains."""

from typing import Annotated

from typer import Argument

from torchrec_priors.apps import command
from torchrec_priors.preparation.describe import describe as described
from torchrec_priors.prepared.data_set import PreparedData


def describe(
    data: Annotated[str, Argument(metavar="DATA", help="Folder or URI of the prepared data set.")],
) -> None:
    """Says what a prepared data set contains.

    Prints sizes, times, lengths of histories, priors, the most frequent items, and one history.
    """
    prepared = PreparedData(data)
    prepared.manifest.require_users("describe", prepared.folder)
    print(described(prepared).text)


def main() -> None:
    command.run(describe, single_process=True)


if __name__ == "__main__":
    main()
