"""The app `push`: writes a trained run as a folder that other people can load."""

from pathlib import Path
from typing import Annotated

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.arguments import check_run
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.amounts import as_text


def push(
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    to: Annotated[
        str,
        Option(
            metavar="FOLDER|hf://ORG/NAME[@BRANCH]",
            help="Folder to write, which must be empty or not exist yet, or a repository on the "
            "Hugging Face hub.",
        ),
    ],
    license: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="License of the model, as the hub names it, such as apache-2.0. By default the "
            "card says that there is none.",
        ),
    ] = None,
    private: Annotated[
        bool, Option("--private", help="Make a new repository on the hub private.")
    ] = False,
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
) -> None:
    """Writes the best checkpoint as a folder with a model card, or uploads it to the hub.

    The folder has weights (safetensors), settings, and the items and labels of the data set, but
    neither its users nor their interactions. `--run` of other commands loads it.
    """
    check_threads(threads)
    check_run(run, data)
    with command.starting():
        from torchrec_priors.publishing.push.push import push as push_run

    use_threads(threads)
    pushed = push_run(run, to, license=license, private=private, data=data)
    print(
        f"{run}, {pushed.pushed.checkpoint}: {as_text(pushed.pushed.bytes)} pushed to "
        f"{pushed.place}"
    )
    if license is None:
        print("the card says that there is no license: --license NAME adds one")


def main() -> None:
    command.run(push, single_process=True)


if __name__ == "__main__":
    main()
