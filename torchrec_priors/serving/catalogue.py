"""Translates between row ids and the original ids and titles of items."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, shown
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_files import places
from torchrec_priors.prepared.id_texts import id_texts, plain_array

log = logging.getLogger(__name__)

ItemId = int | str

# An id with or without quotes, followed by a comma or the end. Within quotes, a quote is doubled.
_LISTED = re.compile(r'(?:\s*"((?:[^"]|"")*)"\s*|([^,]*))(?:,|\Z)')


@dataclass(frozen=True)
class Catalogue:
    """The original ids and titles of all items, in the order of their row ids.

    Attributes:
        name: the name of the data set, for messages.
        ids: the original ids, integers or texts.
        titles: the titles; null if an item has no title.
        texts: the ids as texts. Ids are compared as texts, so 7 and "7" are the same item.
    """

    name: str
    ids: pa.Array
    titles: pa.Array
    texts: pa.Array

    @classmethod
    def of(cls, data: PreparedData) -> "Catalogue":
        """Reads the catalogue of a data set."""
        table = data.catalogue(["item_id", "title"])
        # From a single chunk, `take` copies only the rows that it returns.
        ids = table["item_id"].combine_chunks()
        texts = id_texts(ids, f"items of data set '{data.manifest.name}'")
        return cls(data.manifest.name, ids, plain_array(table["title"]), texts)

    def __len__(self) -> int:
        return len(self.ids)

    def item_id(self, row: int) -> ItemId:
        """Returns the original id of an item: an integer if ids are integers, otherwise a text."""
        ids = self.ids if pa.types.is_integer(self.ids.type) else self.texts
        item: ItemId = ids[row].as_py()
        return item

    def title(self, row: int) -> str:
        """Returns the title of an item; it is empty if the item has no title."""
        title = self.titles[row].as_py()
        return "" if title is None else str(title)

    def history(self, items: Iterable[ItemId]) -> np.ndarray:
        """Returns the row ids of a history that is given by original ids, oldest first.

        Raises:
            UserError: the history is empty, or has an item that does not exist.
        """
        wanted = texts(items)
        if not len(wanted):
            raise UserError("the history is empty: give item ids, oldest first")

        rows = places(wanted, self.texts)
        if (rows < 0).any():
            unknown = shown(wanted[int(np.argmin(rows))])
            raise UserError(f"the history: data set '{self.name}' has no item {unknown}")
        return rows

    def allowed(
        self, allow: Iterable[ItemId] | None, deny: Iterable[ItemId] | None
    ) -> np.ndarray | None:
        """Applies an allow list and a deny list.

        The lists may contain ids that are not in the catalogue. They are counted and logged.

        Returns:
            bool for each row id, whether the item may be recommended; None if there are no lists.

        Raises:
            UserError: no item of the catalogue may be recommended.
        """
        if allow is None and deny is None:
            return None

        allowed = np.ones(len(self), bool)
        if allow is not None:
            allowed = self._listed("allow", texts(allow))
            if not allowed.any():
                raise UserError(f"the allow list names no item of data set '{self.name}'")
        if deny is not None:
            # An item that is in both lists is denied.
            allowed &= ~self._listed("deny", texts(deny))
            if not allowed.any():
                raise UserError("the deny list leaves no item to recommend")
        return allowed

    def _listed(self, kind: str, ids: pa.Array) -> np.ndarray:
        """Returns bool for each row id: whether the item is in a list.

        The number of ids in the list that are not in the catalogue is logged.
        """
        # An id may be in the list several times; it is counted once.
        distinct = ids.unique()
        listed: np.ndarray = pc.is_in(self.texts, value_set=distinct).to_numpy(zero_copy_only=False)
        unknown = len(distinct) - int(listed.sum())
        log.info(
            "%s list: %s items, %s of them not in the catalogue",
            kind,
            f"{len(distinct):,}",
            f"{unknown:,}",
        )
        return listed


def listed(text: str) -> list[str]:
    """Parses a list of ids that are separated by commas.

    An id that contains a comma, or begins or ends with a blank, must be in quotes.

    >>> listed('7, u8,"a,b",,"5"" disk",6" disk')
    ['7', 'u8', 'a,b', '5" disk', '6" disk']
    """
    ids = []
    for match in _LISTED.finditer(text):
        quoted = match[1]
        plain = match[2].strip() if match[2] else ""
        if quoted is not None:
            ids.append(quoted.replace('""', '"'))
        elif plain:
            ids.append(plain)
    return ids


def texts(ids: Iterable[ItemId]) -> pa.Array:
    """Converts ids to texts, which are compared with the ids of the catalogue.

    Raises:
        UserError: a single text is given instead of a list of ids.
    """
    # Python would treat the text as a sequence of letters.
    if isinstance(ids, str):
        raise UserError(f"'{ids}' is one id: give a list of ids")
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return id_texts(ids, "ids")
    return pa.array([str(item) for item in ids], pa.string())
