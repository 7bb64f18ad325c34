"""Writes the truth about a mixed log beside it, as Parquet files that no corpus reads.

- `interactions`: row, source, pool (the leaf, community, event type or group that drew the row),
  session (the number of the user's session, from 0)
- `users`: user_id, group, communities (2), community_weights, interests (leaves), and the weights
  of the interests at the user's first and last interaction
- `sessions`: user_id, session, topics (2 leaves), topic_weights
- `interests`: user_id, category3, from, until, with the times of the user's first and last
  interaction, as in the other world
- `communities` (item_id, label), `groups` (user_id, label) and `favourites` (item_id, label; the
  event types and groups of which an item is a favourite), which `prior --from` can read

What only a source with a share of 0 would use is left out.
"""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from torchrec_priors.parquet import ParquetWriter, write_table
from torchrec_priors.synthetic.histories import EVENTS, SPENDING
from torchrec_priors.synthetic.mixed.histories import MixedHistories
from torchrec_priors.synthetic.mixed.mix import Mix, Source
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.mixed.tastes import MOST_INTERESTS
from torchrec_priors.synthetic.tables import NAMES, named

_WEIGHTS = pa.list_(pa.float64())
_SCHEMAS = {
    "interactions": pa.schema(
        {"row": pa.int64(), "source": NAMES, "pool": NAMES, "session": pa.int64()}
    ),
    "users": pa.schema(
        {
            "user_id": pa.int64(),
            "group": NAMES,
            "communities": pa.list_(pa.string()),
            "community_weights": _WEIGHTS,
            "interests": pa.list_(pa.string()),
            "weights_at_first": _WEIGHTS,
            "weights_at_last": _WEIGHTS,
        }
    ),
    "sessions": pa.schema(
        {
            "user_id": pa.int64(),
            "session": pa.int64(),
            "topics": pa.list_(pa.string()),
            "topic_weights": _WEIGHTS,
        }
    ),
    "interests": pa.schema(
        {"user_id": pa.int64(), "category3": NAMES, "from": pa.int64(), "until": pa.int64()}
    ),
    "groups": pa.schema({"user_id": pa.int64(), "label": NAMES}),
}


class Truth:
    """The files with the truth, which are written chunk by chunk.

    Args:
        folder: The folder of the files, which exists.
        structure: What is planted in the catalogue.
        mix: The settings.
    """

    def __init__(self, folder: Path, structure: Structure, mix: Mix) -> None:
        self.folder = folder
        self.structure = structure
        self.mix = mix
        self.names = structure.names()
        self._stack = ExitStack()
        self._files = {
            name: self._stack.enter_context(ParquetWriter(folder / f"{name}.parquet", schema))
            for name, schema in _SCHEMAS.items()
            if self._has(name)
        }

    def _has(self, name: str) -> bool:
        """Returns whether the settings leave anything to write into a file."""
        needs = {
            "sessions": self.mix.session,
            "interests": self.mix.long_term,
            "groups": self.mix.group,
            "communities": self.mix.community,
            "favourites": self.mix.event + self.mix.group,
        }
        return needs.get(name, 1.0) > 0

    def write_items(self) -> None:
        """Writes the files about items."""
        structure = self.structure
        item_id = structure.catalogue.item_id
        if self._has("communities"):
            of_community = {
                "item_id": item_id,
                "label": named(structure.communities + structure.community, self.names),
            }
            _write_labels(of_community, self.folder / "communities.parquet")

        if self._has("favourites"):
            kinds: list[tuple[str, np.ndarray]] = []
            if self.mix.event:
                kinds.extend(zip(EVENTS, structure.favourite_of_event, strict=True))
            if self.mix.group:
                kinds.extend(zip(SPENDING, structure.favourite_of_group, strict=True))
            sizes = [len(positions) for _, positions in kinds]
            favourites = {
                "item_id": item_id[np.concatenate([positions for _, positions in kinds])],
                "label": named(
                    np.repeat(np.arange(len(kinds)), sizes), [name for name, _ in kinds]
                ),
            }
            _write_labels(favourites, self.folder / "favourites.parquet")

    def write(self, made: MixedHistories, first_row: int) -> None:
        """Writes the truth about the next users.

        Args:
            made: The histories of the users.
            first_row: The number of their first row in the log.
        """
        columns = {
            "interactions": self._interactions(made, first_row),
            "users": self._users(made),
            "sessions": self._sessions(made),
            "interests": self._interests(made),
            "groups": {"user_id": made.users, "label": named(made.spending, SPENDING)},
        }
        for name, file in self._files.items():
            file.write_table(pa.table(columns[name], schema=_SCHEMAS[name]))

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, where)

    def _interactions(self, made: MixedHistories, first_row: int) -> dict[str, object]:
        sources = [source.name for source in Source]
        return {
            "row": np.arange(first_row, first_row + len(made.source)),
            "source": named(made.source, sources),
            "pool": named(made.pool, self.names),
            "session": made.session,
        }

    def _users(self, made: MixedHistories) -> dict[str, object]:
        tastes = made.tastes
        every = np.arange(len(made.users))
        nothing = pa.nulls(len(every))
        communities: object = nothing
        community_weights: object = nothing
        if self.mix.community:
            communities = self._pairs(self.structure.communities + tastes.community_U2)
            community_weights = _shares(tastes.share)

        interests: object = nothing
        weights = [nothing, nothing]
        if self.mix.long_term:
            held = np.arange(MOST_INTERESTS) < tastes.interests[:, None]
            bounds = pa.array(np.concatenate([[0], np.cumsum(tastes.interests)]), pa.int32())
            leaves = pa.array(self.names).take(pa.array(tastes.leaf_UK[held]))
            interests = pa.ListArray.from_arrays(bounds, leaves)
            steps = (np.zeros_like(every), made.lengths - 1)
            weights = [
                pa.ListArray.from_arrays(bounds, pa.array(tastes.weights(every, step)[held]))
                for step in steps
            ]

        return {
            "user_id": made.users,
            "group": named(made.spending, SPENDING) if self.mix.group else nothing,
            "communities": communities,
            "community_weights": community_weights,
            "interests": interests,
            "weights_at_first": weights[0],
            "weights_at_last": weights[1],
        }

    def _sessions(self, made: MixedHistories) -> dict[str, object]:
        # A session begins at the first row of a user, and where the number changes.
        opens = np.flatnonzero(np.concatenate([[True], np.diff(made.session) != 0]) | _firsts(made))
        return {
            "user_id": np.repeat(made.users, made.lengths)[opens],
            "session": made.session[opens],
            "topics": self._pairs(made.topic_R2[opens]),
            "topic_weights": _shares(made.topic_share[opens]),
        }

    def _interests(self, made: MixedHistories) -> dict[str, object]:
        tastes = made.tastes
        held = np.arange(MOST_INTERESTS) < tastes.interests[:, None]
        first = np.flatnonzero(_firsts(made))
        last = first + made.lengths - 1
        return {
            "user_id": np.repeat(made.users, tastes.interests),
            "category3": named(tastes.leaf_UK[held], self.names),
            "from": np.repeat(made.time[first], tastes.interests),
            "until": np.repeat(made.time[last], tastes.interests),
        }

    def _pairs(self, pool_R2: np.ndarray) -> pa.ListArray:
        """Returns the names of two pools for each row."""
        names = pa.array(self.names).take(pa.array(pool_R2.ravel()))
        return _in_pairs(names)


def _firsts(made: MixedHistories) -> np.ndarray:
    """[R]: whether each row is the first one of its user."""
    firsts = np.zeros(len(made.position), bool)
    firsts[np.cumsum(made.lengths) - made.lengths] = True
    return firsts


def _shares(first: np.ndarray) -> pa.ListArray:
    """Returns the weights of two things, of which the first has a given one."""
    return _in_pairs(pa.array(np.stack([first, 1 - first], axis=1).ravel()))


def _in_pairs(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, 2), pa.int32()), values)


def _write_labels(columns: dict[str, object], file: Path) -> None:
    write_table(pa.table(columns, schema=pa.schema({"item_id": pa.int64(), "label": NAMES})), file)
