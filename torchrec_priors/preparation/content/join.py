"""Joins vectors of items and groups of items into one content.

    vector = (w_1 a_1 / |a_1|, w_2 a_2 / |a_2|, ...)

Each part a is content that was added before, or a prior of items: then it has a 1 for each group of
the item. An item that lacks a part has zeros there.

Shapes: M items with a vector, c width of a part.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.content.put import check_replaceable, folder_of, put_content
from torchrec_priors.prepared.content import read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo, PriorInfo

_OPTION = "--of"
# Every process holds the content of all items.
_MOST_NUMBERS = 1 << 13


@dataclass(frozen=True)
class Part:
    """A part of a joined content.

    Attributes:
        name: the name of content or of a prior of items.
        weight: the length of the part of an item that has it.
    """

    name: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Reads a part such as `text` or `genre=3`.

        >>> Part.parse("text"), Part.parse("genre=3")
        (Part(name='text', weight=1.0), Part(name='genre', weight=3.0))

        Raises:
            UserError: the weight is not a number above 0.
        """
        name, equals, value = text.partition("=")
        if not equals:
            return cls(name)
        try:
            weight = float(value)
        except ValueError:
            weight = np.nan
        if not 0 < weight < np.inf:
            raise UserError(
                f"{_OPTION}: '{text}': a part is NAME or NAME=WEIGHT, with a weight above 0"
            )
        return cls(name, weight)


def join_content(
    data: PreparedData, name: str, parts: list[Part], *, overwrite: bool = False
) -> ContentInfo:
    """Adds content that consists of several parts.

    Args:
        data: the data set.
        name: the name of the content.
        parts: its parts, in this order.
        overwrite: whether content that was made otherwise may be replaced.

    Raises:
        UserError: a part is unknown or given twice, no item has any part, or the name is taken.
    """
    folder_of(data)
    names = [part.name for part in parts]
    if not parts:
        raise UserError(f"{_OPTION}: no part was given: name content or priors of items")
    if len(set(names)) < len(names):
        raise UserError(f"{_OPTION}: '{','.join(names)}': a part was given twice")

    read = [_read(data, part) for part in parts]
    identity = "joined: " + ", ".join(one.identity for one in read)
    check_replaceable(data.manifest, name, identity, overwrite)
    width = sum(one.vector_Mc.shape[1] for one in read)
    if width > _MOST_NUMBERS:
        raise UserError(
            f"{_OPTION}: {width:,} numbers for each item, but at most {_MOST_NUMBERS:,} are "
            "possible: leave out the prior with the most groups"
        )

    item_M = np.unique(np.concatenate([one.item_M for one in read]))
    if not len(item_M):
        raise UserError(f"{_OPTION}: no item has any of '{','.join(names)}'")
    vector_Mc = np.zeros((len(item_M), width), np.float32)
    first = 0
    for one in read:
        last = first + one.vector_Mc.shape[1]
        vector_Mc[np.searchsorted(item_M, one.item_M), first:last] = one.vector_Mc
        first = last

    made_by = {"kind": "joined", "parts": {part.name: part.weight for part in parts}}
    return put_content(data, name, identity, made_by, item_M, vector_Mc, overwrite=overwrite)


@dataclass(frozen=True)
class _Read:
    """The vectors of a part, each as long as its weight.

    Attributes:
        identity: what they were made with.
        item_M: row ids of the items with a vector, ascending.
        vector_Mc: their vectors.
    """

    identity: str
    item_M: np.ndarray
    vector_Mc: np.ndarray


def _read(data: PreparedData, part: Part) -> _Read:
    """Reads a part: content, or a prior of items."""
    if any(info.name == part.name for info in data.manifest.content):
        content = read_content(data, part.name, _OPTION)
        made = f"{part.name}={part.weight:g} ({content.info.identity})"
        return _Read(made, content.item_M, _scaled(content.vector_Mc, part.weight))

    prior = next((one for one in data.manifest.priors if one.name == part.name), None)
    if prior is None or prior.kind not in ("item", "graph"):
        known = [info.name for info in data.manifest.content if not info.has_tokens]
        known += [one.name for one in data.manifest.priors if one.kind in ("item", "graph")]
        raise UserError(
            f"{_OPTION}: '{part.name}' is no content and no prior of items of this data set: it "
            f"has {', '.join(sorted(known))}"
        )
    # The numbers of a vector have a meaning only with these groups.
    groups = hashlib.sha256("\0".join(prior.groups).encode()).hexdigest()[:16]
    made = f"{part.name}={part.weight:g} ({len(prior.groups)} groups, {groups})"
    return _Read(made, *_of_groups(data, prior, part.weight))


def _of_groups(
    data: PreparedData, prior: PriorInfo, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the items that are in a group, and a vector for each."""
    if len(prior.groups) > _MOST_NUMBERS:
        raise UserError(
            f"{_OPTION}: prior '{prior.name}' has {len(prior.groups):,} groups, but at most "
            f"{_MOST_NUMBERS:,} numbers are possible for each item: leave it out"
        )
    item_N, group_N = data.prior_pairs(prior.name, "item")
    item_M, place_N = np.unique(item_N, return_inverse=True)
    member_MG = np.zeros((len(item_M), len(prior.groups)), np.float32)
    member_MG[place_N, group_N] = 1.0
    return item_M.astype(np.int64), _scaled(member_MG, weight)


def _scaled(vector_Mc: np.ndarray, length: float) -> np.ndarray:
    """Returns vectors of this length, in the same directions."""
    lengths_M1 = np.linalg.norm(vector_Mc, axis=1, keepdims=True)
    scaled: np.ndarray = vector_Mc * (length / np.maximum(lengths_M1, 1e-12))
    return scaled.astype(np.float32)
