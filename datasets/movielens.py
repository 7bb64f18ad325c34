"""MovieLens (GroupLens; research use, no redistribution) in all of its releases.

The release is recognised by the names of the files, which are in the raw folder or in the only
folder inside it. Texts are read as UTF-8, or as Latin-1 if they are not valid UTF-8. The data card,
`movielens.md`, lists the files of each release.

- 100K: `u.data`, `u.item`, `u.user`. Expected: 943 users, 1,682 films, 100,000 ratings from
  September 1997 to April 1998.
- 1M: `ratings.dat`, `movies.dat`, `users.dat`. Expected: 6,040 users, 3,883 films, 1,000,209
  ratings.
- 10M: the same without `users.dat`, and with half stars.
- 20M, 25M, 32M, "latest": `ratings.csv`, `movies.csv`, with half stars. Kaggle's copy of 20M has
  `rating.csv` and `movie.csv`.
- 1M as sequences: `ML-1M.txt`, `ML-1M_item2attributes.json`, `genres.json`, `movies.dat`,
  `users.dat`. This is the form of published comparisons: the order of each user's films, without
  ratings and times. Expected: 6,040 users, 3,416 films, 999,611 interactions, 18 genres.

Priors: `genre` (several for a film; the category prior), `rating` (the event type, a number of
stars; not for sequences), and, if the files describe the users, `age`, `gender` and `occupation`.
Source: https://grouplens.org/datasets/movielens/; F. Maxwell Harper and Joseph A. Konstan, ACM TiiS
5(4):19, 2015.
"""

from pathlib import Path

import ibis
import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.raw import BadRows
from torchrec_priors.preparation.raw.movielens import read_release

# What groups are called in reasons for people.
_WORDS = {"age": "people aged {}", "genre": "{} films"}


def load(raw: Path, bad_rows: BadRows) -> Corpus:
    release = read_release(raw, bad_rows)

    user_priors = []
    if release.users is not None:
        for name in ("age", "gender", "occupation"):
            labels = ibis.memtable(_labels(release.users, name))
            user_priors.append(Labels(name, labels, f"no {name}", _WORDS.get(name, "")))

    return Corpus(
        name="movielens",
        interactions=ibis.memtable(release.log),
        items=ibis.memtable(release.films),
        has_times=release.has_times,
        category_prior="genre",
        # Published comparisons that use the sequences leave one out.
        default_horizon=8 if release.has_times else 1,
        events=release.stars,
        event_prior="rating" if release.stars else None,
        item_priors=[Labels("genre", ibis.memtable(release.genres), "no genre", _WORDS["genre"])],
        user_priors=user_priors,
        user_group="age" if user_priors else None,
    )


def _labels(users: pa.Table, column: str) -> pa.Table:
    return pa.table({"user_id": users["user_id"], "label": users[column]})
