"""The app `export`: writes a trained run as plain files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import RUN, TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.progress import with_progress
from torchrec_priors.serving.export import check_out
from torchrec_priors.serving.export import export as write_export
from torchrec_priors.serving.run import load_run


def export(
    run: Annotated[str, Option(metavar="PATH|URI", help=RUN)],
    out: Annotated[Path, Option(help="Folder to write. It must be empty, or not exist yet.")],
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
) -> None:
    """Writes the best checkpoint as plain files.

    Item vectors are written as Parquet with original ids, and other weights as safetensors.
    """
    check_threads(threads)
    # A folder that cannot be written is rejected before the model is loaded.
    check_out(out)
    use_threads(threads)
    with load_run(run, data, trust=trust) as loaded:

        def progress(blocks: Iterable[int], number: int) -> Iterable[int]:
            return with_progress(blocks, number, "block", leads=loaded.ranks.leads)

        about = write_export(loaded, out, progress)
        if loaded.ranks.leads:
            without = about["items_without_vectors"]
            more = f" ({without:,} more have none)" if without else ""
            print(
                f"{run}, {loaded.checkpoint}: vectors of {about['items'] - without:,} items{more}, "
                f"{len(about['heads']):,} heads, written to {out}"
            )


def main() -> None:
    command.run(export)


if __name__ == "__main__":
    main()
