"""The app `report`: writes a static page with the results of runs."""

import shlex
import time
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.errors import UserError
from torchrec_priors.report.runs import find


def report(
    runs: Annotated[
        list[Path],
        Option(
            metavar="DIR",
            help="Folder of a run or an experiment, or of several of them. Can be repeated.",
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the page, which is called index.html.")],
    reference: Annotated[
        str | None,
        Option(
            metavar="LABEL",
            help="Row that the others are compared with. [one head, next item]",
        ),
    ] = None,
    more: Annotated[
        list[Path] | None,
        Argument(metavar="[DIR]...", help="More folders, so that you can give --runs DIR DIR ..."),
    ] = None,
) -> None:
    """Writes a page with all evaluations of some runs.

    The page says what to turn on for whom, and it shows tables, figures and example users. It needs
    no network: you can send it, or open it from the disk.
    """
    started = time.monotonic()
    # Reading many runs takes a long time, so the folder is checked first.
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: '{out}' is a file: name a folder")

    folders = [*runs, *(more or [])]
    found = find(folders)

    with command.starting():
        from torchrec_priors.report.page import write_page
        from torchrec_priors.report.sections import sections

    # The page contains the command that reproduces it.
    arguments: list[str] = []
    for folder in folders:
        arguments += ["--runs", str(folder)]
    arguments += ["--out", str(out)]
    if reference is not None:
        arguments += ["--reference", reference]
    command_line = shlex.join(["torchrec-priors", "report", *arguments])

    file = write_page(sections(found.results, reference), found.left_out, out, command_line)
    for reason in found.left_out:
        print(f"not shown: {reason}")
    size = file.stat().st_size / 1e6
    print(f"written to {file} ({size:.1f} MB, {time.monotonic() - started:.0f} s)")


def main() -> None:
    command.run(report, single_process=True)


if __name__ == "__main__":
    main()
