"""One static page of what runs came to."""

import shlex
import time
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.errors import UserError
from torchrec_priors.report.page import write_page
from torchrec_priors.report.runs import find
from torchrec_priors.report.sections import sections


def report(
    runs: Annotated[
        list[Path],
        Option(metavar="DIR", help="Folder of a run, of an experiment, or one that holds such."),
    ],
    out: Annotated[Path, Option(help="Folder of the page, index.html.")],
    reference: Annotated[
        str | None,
        Option(
            metavar="LABEL", help="Row that the others are compared with. [one head, next item]"
        ),
    ] = None,
    more: Annotated[
        list[Path] | None,
        Argument(
            metavar="[DIR]...", help="More folders, so that --runs DIR DIR ... may be written."
        ),
    ] = None,
) -> None:
    """Writes a page of all evaluations of some runs: what to turn on for whom, tables, figures, example users.

    The page needs no network: send it, or open it from the disk.
    """
    started = time.monotonic()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: '{out}' is a file: name a folder")
    places = [*runs, *(more or [])]
    found = find(places)
    given = [word for each in places for word in ("--runs", str(each))] + ["--out", str(out)]
    given += [] if reference is None else ["--reference", reference]
    shown = sections(found.results, reference)
    file = write_page(shown, found.left_out, out, shlex.join(["torchrec-priors", "report", *given]))
    for reason in found.left_out:
        print(f"not shown: {reason}")
    print(
        f"written to {file} ({file.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.0f} s)"
    )


def main() -> None:
    command.run(report, alone=True)


if __name__ == "__main__":
    main()
