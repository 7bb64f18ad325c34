"""Writes MovieLens 1M as sequences without its newest films, except where they are test targets.

    python tools/hold_out_items.py RAW OUT --share 0.1 --horizon 8

The last tenth of the films by their year of release are held out: they stay only among the last 8
items of each user, which are the test targets with `prepare --horizon 8`. So training and validation
have none of them, and a model must recommend them by their content.

    python tools/hold_out_items.py RAW OUT --without 0.1

first removes the newest tenth altogether, and holds out the tenth before it. So settings can be chosen on
other films than those of the first command.
"""

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from torchrec_priors.apps import command

_YEAR = re.compile(r"\((\d{4})\)\s*$")
_SEQUENCES = "ML-1M.txt"
_OTHERS = ("ML-1M_item2attributes.json", "genres.json", "movies.dat", "users.dat")


def hold_out_items(
    raw: Annotated[Path, typer.Argument(help="Folder of ML-1M.txt and movies.dat.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    share: Annotated[float, typer.Option(help="Share of the films to hold out.")] = 0.1,
    horizon: Annotated[int, typer.Option(help="Number of test targets of a user.")] = 8,
    without: Annotated[float, typer.Option(help="Share of the newest films to remove first.")] = 0,
) -> None:
    """Writes the new folder, and prints the numbers of films and interactions."""
    lines = [line.split() for line in (raw / _SEQUENCES).read_text().splitlines()]
    films = {film for line in lines for film in line[1:]}
    years = _years(raw / "movies.dat")
    ordered = sorted(films, key=lambda film: (years[film], int(film)))
    ordered = ordered[: len(ordered) - round(without * len(ordered))]
    films = set(ordered)
    held_out = set(ordered[len(ordered) - round(share * len(ordered)) :])

    out.mkdir(parents=True)
    dropped = 0
    targets = 0
    with (out / _SEQUENCES).open("w") as file:
        for user, *everything in lines:
            history = [film for film in everything if film in films]
            before = history[:-horizon]
            kept = [film for film in before if film not in held_out]
            dropped += len(before) - len(kept)
            targets += sum(film in held_out for film in history[-horizon:])
            file.write(" ".join([user, *kept, *history[-horizon:]]) + "\n")
    for name in _OTHERS:
        if (raw / name).is_file():
            shutil.copyfile(raw / name, out / name)

    print(
        f"{len(held_out):,} of {len(films):,} films are held out: {dropped:,} interactions were "
        f"removed, {targets:,} targets stay"
    )


def _years(movies: Path) -> dict[str, int]:
    """Returns the year of release of each film, which is the end of its title."""
    years = {}
    for line in movies.read_text(encoding="latin-1").splitlines():
        film, title, _ = line.split("::")
        year = _YEAR.search(title)
        assert year is not None, title
        years[film] = int(year[1])
    return years


if __name__ == "__main__":
    command.run(hold_out_items, single_process=True)
