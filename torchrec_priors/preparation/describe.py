"""Describes a prepared data set for users: sizes, times, histories, priors, and samples."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.preparation.build.summary import prior_line, summary, understood
from torchrec_priors.preparation.content.add import counted
from torchrec_priors.preparation.content.join import parts_of
from torchrec_priors.preparation.raw.times import in_words
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo, PriorInfo

# The number of items in the sample, and of interactions of the history that is shown.
_ITEMS = 5
_LAST = 8
# The shares of users for which the length of their histories is given.
_QUANTILES = (0, 25, 50, 75, 100)


@dataclass(frozen=True)
class Description:
    """A description of a data set.

    Attributes:
        head: what `prepare` printed: sizes, times, dropped and repaired rows, priors; and content.
        lengths: the smallest, the quartiles and the largest of the lengths of histories.
        mean_length: their mean.
        items: the ids and titles of the items with the most training interactions, with these.
        user: the id of a user whose history has the median length.
        history: the last interactions of this user: time, event, id and title, oldest first.
    """

    head: str
    lengths: list[int]
    mean_length: float
    items: list[tuple[str, str, int]]
    user: str
    history: list[tuple[str, str, str, str]]

    @property
    def text(self) -> str:
        """The description as lines."""
        least, quarter, half, most_of, most = self.lengths
        lines = [
            self.head,
            f"histories: {least:,} to {most:,} interactions, half of them {quarter:,} to"
            f" {most_of:,}, median {half:,}, mean {self.mean_length:.1f}",
            "items with the most training interactions:",
        ]
        lines += [f"  {item}  {title}  ({count:,})" for item, title, count in self.items]
        lines.append(f"user {self.user} (a history of median length), the last interactions:")
        lines += ["  " + "  ".join(part for part in parts if part) for parts in self.history]
        return "\n".join(lines)


def describe(data: PreparedData) -> Description:
    """Describes a data set. Of the sequences, only the lengths and one row group are read."""
    manifest = data.manifest
    lengths = data.lengths
    catalogue = data.catalogue(["item_id", "title", "frequency"])

    def named(row: int) -> tuple[str, str]:
        title = catalogue["title"][row].as_py()
        return str(catalogue["item_id"][row].as_py()), title or "(no title)"

    frequency = catalogue["frequency"].to_numpy()
    top = np.argsort(-frequency, kind="stable")[:_ITEMS].tolist()
    user, history = _sample(data, named)
    folder = data.folder if isinstance(data.folder, Path) else None
    return Description(
        head="\n".join([*understood(manifest), summary(manifest, folder), *content_lines(data)]),
        lengths=[int(value) for value in np.percentile(lengths, _QUANTILES, method="lower")],
        mean_length=float(lengths.mean()),
        items=[(*named(row), int(frequency[row])) for row in top],
        user=user,
        history=history,
    )


def prior_lines(data: PreparedData) -> list[str]:
    """Describes the priors of a data set, a line for each, with where they come from."""
    return [
        f"{prior_line(prior)}{_origin(prior)}{words_of(prior)}" for prior in data.manifest.priors
    ]


def content_lines(data: PreparedData) -> list[str]:
    """Describes the content of a data set, a line for each, with what it was made of."""
    return [
        f"{line}; {_made_of(info)}"
        for info in data.manifest.content
        for line in counted(data, info)
    ]


def words_of(prior: PriorInfo) -> str:
    """Says what the groups of a prior are called in reasons for people; "" for the usual words."""
    return f", called '{prior.words}'" if prior.words else ""


def _sample(
    data: PreparedData, named: Callable[[int], tuple[str, str]]
) -> tuple[str, list[tuple[str, str, str, str]]]:
    """Returns the first user whose history has the median length, and its last interactions."""
    manifest = data.manifest
    median = int(np.percentile(data.lengths, 50, method="lower"))
    number = int(np.argmax(data.lengths == median))
    group = next(
        group
        for group in data.row_groups
        if group.first_user <= number < group.first_user + group.users
    )
    columns = ["timestamps", "events"] if manifest.events else ["timestamps"]
    users = data.read_users(group, columns)
    user = number - group.first_user
    of_user = users.columns_of(user)

    history = []
    for place, row in list(enumerate(users.history(user).tolist()))[-_LAST:]:
        time = in_words(int(of_user["timestamps"][place])) if manifest.has_times else ""
        event = manifest.events[of_user["events"][place]] if manifest.events else ""
        history.append((time, event, *named(row)))
    return str(data.user_ids(group)[user].as_py()), history


def _origin(prior: PriorInfo) -> str:
    made_by: dict[str, Any] = prior.made_by or {}
    if not made_by:
        return "; came with the data"
    if "file" in made_by:
        return f"; added from {made_by['file']}"
    return f"; added ({made_by.get('kind', prior.kind)})"


def _made_of(info: ContentInfo) -> str:
    made = info.made_by
    if made["kind"] == "joined":
        return f"joined of {', '.join(parts_of(info))}"
    if "images" in made:
        return f"encoded from the images of {made['images']}"
    if "columns" in made:
        return f"made of {', '.join(made['columns'])}"
    return f"added from {made['file']}"
