"""Joins vectors of items and groups of items into one content.

    vector = (w_1 a_1 / |a_1|, w_2 a_2 / |a_2|, ...)

Each part a is content that was added before, or a prior of items: then it has a 1 for each group of
the item. An item that lacks a part has zeros there.

A prior may get more groups by an append, always after the old ones. If the same parts are joined
again, the vectors keep their width, so that runs can go on: newer groups are left out.

Shapes: M items with a vector, c width of a part.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.content.put import check_replaceable, folder_of, put_content
from torchrec_priors.prepared.content import read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo, Manifest, PriorInfo

_OPTION = "--of"
# Every process holds the content of all items, and a map of content has the square of its width.
MOST_NUMBERS = 1 << 12


@dataclass(frozen=True)
class Part:
    """A part of a joined content.

    Attributes:
        name: the name of content or of a prior of items. If both have it, content is meant.
        weight: the length of the part of an item that has it.
    """

    name: str
    weight: float = 1.0

    def __str__(self) -> str:
        """The part as it is given to the command.

        >>> str(Part("genre", 3.0)), str(Part("genre", 0.1 + 0.2))
        ('genre=3', 'genre=0.30000000000000004')
        """
        return f"{self.name}={self.weight!r}".removesuffix(".0")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Reads a part such as `text` or `genre=3`.

        >>> Part.parse("text"), Part.parse("genre=3")
        (Part(name='text', weight=1.0), Part(name='genre', weight=3.0))

        Raises:
            UserError: there is no name, or the weight is not a number above 0.
        """
        name, equals, value = text.partition("=")
        try:
            weight = float(value) if equals else 1.0
        except ValueError:
            weight = np.nan
        if not name or not 0 < weight < np.inf:
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
        overwrite: whether content that was made otherwise may be replaced; then priors have all
            their groups.

    Raises:
        UserError: a part is unknown or given twice, no item has any part, or the name is taken.
    """
    folder_of(data)
    names = [part.name for part in parts]
    if not parts:
        raise UserError(f"{_OPTION}: no part was given: name content or priors of items")
    if len(set(names)) < len(names):
        raise UserError(f"{_OPTION}: '{','.join(names)}': a part was given twice")
    if name in names:
        raise UserError(f"--name: '{name}' cannot be a part of itself: choose another name")

    manifest = data.manifest
    weights = {part.name: part.weight for part in parts}
    known_groups = {} if overwrite else _known_groups(manifest, name, weights)
    sources = [_source(manifest, part, known_groups.get(part.name)) for part in parts]
    identity = "joined: " + ", ".join(source.identity for source in sources)
    check_replaceable(manifest, name, identity, overwrite)
    width = sum(source.width for source in sources)
    if width > MOST_NUMBERS:
        widest = max(sources, key=lambda source: source.width)
        raise UserError(
            f"{_OPTION}: {width:,} numbers for each item, but at most {MOST_NUMBERS:,} are "
            f"possible: leave out '{widest.part.name}', which has {widest.width:,}"
        )

    read = [source.read(data) for source in sources]
    item_M = np.unique(np.concatenate([items for items, _ in read]))
    if not len(item_M):
        raise UserError(f"{_OPTION}: no item has any of '{','.join(names)}'")
    vector_Mc = np.zeros((len(item_M), width), np.float32)
    first = 0
    for source, (items, vectors) in zip(sources, read, strict=True):
        columns = slice(first, first + source.width)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        scale = np.float32(source.part.weight) / np.maximum(lengths, np.float32(1e-12))
        vector_Mc[np.searchsorted(item_M, items), columns] = vectors * scale
        first = columns.stop

    made_by = {
        "kind": "joined",
        "parts": weights,
        "groups": {source.part.name: source.width for source in sources if source.prior},
    }
    return put_content(data, name, identity, made_by, item_M, vector_Mc, overwrite=overwrite)


def parts_of(info: ContentInfo) -> list[str]:
    """Returns the parts of joined content, as they are given to the command."""
    return [str(Part(name, weight)) for name, weight in info.made_by["parts"].items()]


def _known_groups(manifest: Manifest, name: str, weights: dict[str, float]) -> dict[str, int]:
    """Returns the numbers of groups that priors had when the same parts were joined before."""
    for info in manifest.content:
        if info.name == name and info.made_by.get("parts") == weights:
            known: dict[str, int] = info.made_by.get("groups", {})
            return known
    return {}


@dataclass(frozen=True)
class _Source:
    """Where the vectors of a part come from.

    Attributes:
        part: the part.
        identity: what the vectors are made with.
        width: c.
        prior: the prior of items; None for content.
    """

    part: Part
    identity: str
    width: int
    prior: PriorInfo | None = None

    def read(self, data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
        """Returns row ids of items, ascending, and their vectors, float32 [M, c]."""
        if self.prior is None:
            content = read_content(data, self.part.name, _OPTION)
            return content.item_M, content.vector_Mc

        item_N, group_N = data.prior_pairs(self.prior.name, "item")
        is_known_N = group_N < self.width
        item_M, place_N = np.unique(item_N[is_known_N], return_inverse=True)
        member_Mc = np.zeros((len(item_M), self.width), np.float32)
        member_Mc[place_N, group_N[is_known_N]] = 1.0
        return item_M.astype(np.int64), member_Mc


def _source(manifest: Manifest, part: Part, groups: int | None) -> _Source:
    """Finds a part: content, or a prior of items.

    Args:
        manifest: describes the data set.
        part: the part.
        groups: the number of groups of a prior that are used; None for all.

    Raises:
        UserError: there is no such part.
    """
    for info in manifest.content:
        if info.name == part.name:
            return _Source(part, f"{part} ({info.identity})", info.dim)

    priors = {prior.name: prior for prior in manifest.priors if prior.kind in ("item", "graph")}
    if part.name not in priors:
        known = sorted({*priors, *(info.name for info in manifest.content if not info.has_tokens)})
        raise UserError(
            f"{_OPTION}: '{part.name}' is no content and no prior of items of this data set, which "
            f"has {', '.join(known) or 'none'}"
        )

    # The numbers of a vector have a meaning only with these groups. Groups of a prior that was
    # added may have the same names and other members, so its first checksum counts.
    prior = priors[part.name]
    names = prior.groups[:groups]
    told = hashlib.sha256("\0".join(names).encode())
    if prior.made_by:
        told.update((prior.grown_from or [manifest.added_priors()[prior.name]])[0].encode())
    identity = f"{part} ({len(names)} groups, {told.hexdigest()[:16]})"
    return _Source(part, identity, len(names), prior)
