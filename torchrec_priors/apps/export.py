"""The app `export`: writes a trained run as plain files."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import RUN, TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.progress import with_progress


class Format(StrEnum):
    """The format of the graph of the encoder and the heads."""

    onnx = "onnx"
    aoti = "aoti"


def export(
    run: Annotated[str, Option(metavar="PATH|URI", help=RUN)],
    out: Annotated[Path, Option(help="Folder to write. It must be empty, or not exist yet.")],
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    format: Annotated[
        Format | None,
        Option(
            help="Also write the encoder and the heads as a graph, from the vectors "
            "of a history to queries: for onnxruntime, or compiled by PyTorch for this kind of "
            "machine. The graph is compared with the model."
        ),
    ] = None,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
) -> None:
    """Writes the best checkpoint as plain files.

    Item vectors are written as Parquet with original ids, and other weights as safetensors.
    """
    check_threads(threads)
    with command.starting():
        from torchrec_priors.serving.export import Finish, check_out, no_more_files
        from torchrec_priors.serving.export import export as write_export
        from torchrec_priors.serving.graph import add_graph, check_format
        from torchrec_priors.serving.run import load_run

    # A folder that cannot be written is rejected before the model is loaded.
    check_out(out)
    finish: Finish = no_more_files
    if format is not None:
        check_format(format.value)
        finish = partial(add_graph, format=format.value, trust=trust)
    use_threads(threads)
    with load_run(run, data, trust=trust) as loaded:

        def progress(blocks: Iterable[int], number: int) -> Iterable[int]:
            return with_progress(blocks, number, "block", leads=loaded.ranks.leads)

        about = write_export(loaded, out, progress, finish)
        if loaded.ranks.leads:
            without = about["items_without_vectors"]
            more = f" ({without:,} more have none)" if without else ""
            print(
                f"{run}, {loaded.checkpoint}: vectors of {about['items'] - without:,} items{more}, "
                f"{len(about['heads']):,} heads, written to {out}"
            )
            if "graph" in about:
                print(_graph_in_words(about["graph"]))


def _graph_in_words(graph: Mapping[str, Any]) -> str:
    """Returns what was written as a graph, and how it compares with the model."""
    difference = graph["largest_difference"]
    if difference is None:
        return f"{graph['file']}: not compared with the model, as onnxruntime is not installed"
    return (
        f"{graph['file']}: its queries differ from those of the model by at most {difference:.2g}"
    )


def main() -> None:
    command.run(export)


if __name__ == "__main__":
    main()
