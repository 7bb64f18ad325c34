"""A small made-up data set in the official MovieLens 100K files, and a slow, obvious reader of such files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
OCCUPATIONS = ("artist", "doctor", "lawyer", "other", "student")
SHORT = (3, 15, 16, 17, 18)  # around the least length kept at horizon 8, which is 17


def write_movielens(
    folder: Path,
    *,
    users: int = 80,
    items: int = 150,
    longest: int = 50,
    seed: int = 0,
    unlabelled: int = 3,
    optional: bool = True,
) -> Path:
    """Writes u.data, u.item and u.user, and returns `folder`.

    Popularity is skewed, lengths run from `SHORT` to `longest`, a user's times repeat, lines are in no order
    of time, and titles are not ASCII.

    Args:
        longest: most ratings of a user; at most `items`, as nobody rates a film twice.
        unlabelled: films without a genre.
        optional: whether u.genre and u.occupation are written, too.
    """
    assert len(SHORT) <= users
    assert max(SHORT) <= longest <= items
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    popularity = np.arange(1, items + 1) ** -1.3
    popularity = random.permutation(popularity / popularity.sum())
    lines = []
    for user in range(1, users + 1):
        length = SHORT[user - 1] if user <= len(SHORT) else int(random.integers(20, longest + 1))
        films = 1 + random.choice(items, length, replace=False, p=popularity)
        times = 880_000_000 + random.integers(
            0, length, length
        )  # about a third stand at another's second
        stars = random.choice(5, length, p=[0.06, 0.11, 0.27, 0.35, 0.21]) + 1
        lines += [
            f"{user}\t{film}\t{star}\t{time}"
            for film, star, time in zip(films, stars, times, strict=True)
        ]
    _write(folder / "u.data", [lines[i] for i in random.permutation(len(lines))])

    films = []
    for film in range(1, items + 1):
        flags = np.zeros(len(GENRES), int)
        if film > unlabelled:
            flags[
                random.choice(np.arange(1, len(GENRES)), random.integers(1, 4), replace=False)
            ] = 1
        films.append(
            f"{film}|Café {film} (1997)|01-Jan-1997||http://example.org/{film}|{'|'.join(map(str, flags))}"
        )
    _write(folder / "u.item", films)
    people = []
    for user in range(1, users + 1):
        gender, occupation = random.choice(["M", "F"]), random.choice(OCCUPATIONS)
        people.append(f"{user}|{random.integers(7, 74)}|{gender}|{occupation}|{10000 + user}")
    _write(folder / "u.user", people)
    if optional:
        _write(
            folder / "u.genre", [f"{genre}|{number}" for number, genre in enumerate(GENRES)] + [""]
        )
        _write(folder / "u.occupation", list(OCCUPATIONS))
    return folder


@dataclass(frozen=True)
class Rating:
    user: int
    film: int
    stars: int
    seconds: int


def read_ratings(folder: Path) -> list[Rating]:
    """All lines of u.data, in file order."""
    lines = (folder / "u.data").read_text(encoding="latin-1").splitlines()
    return [Rating(*map(int, line.split("\t"))) for line in lines]


def write_ratings(folder: Path, ratings: list[Rating]) -> None:
    """Replaces u.data."""
    lines = [
        f"{rating.user}\t{rating.film}\t{rating.stars}\t{rating.seconds}" for rating in ratings
    ]
    _write(folder / "u.data", lines)


def read_sequences(folder: Path, horizon: int) -> dict[int, list[Rating]]:
    """Ratings of each kept user in order of time, ties in file order, repeats left out; users in ascending order."""
    by_user: dict[int, list[Rating]] = {}
    for rating in dict.fromkeys(read_ratings(folder)):
        by_user.setdefault(rating.user, []).append(rating)
    ordered = {
        user: sorted(ratings, key=lambda rating: rating.seconds)
        for user, ratings in sorted(by_user.items())
    }
    return {user: ratings for user, ratings in ordered.items() if len(ratings) > 2 * horizon}


def _write(file: Path, lines: list[str]) -> None:
    file.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
