"""Translates between row ids and the original ids and titles of items."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from torchrec_priors.errors import UserError, shown
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.id_index import IdIndex
from torchrec_priors.prepared.id_texts import id_texts, plain_array
from torchrec_priors.retrieval.item_filter import ItemFilter, bits_of, has_bits
from torchrec_priors.serving.text_rows import TextRows

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

    def item_ids(self, rows: list[int]) -> list[ItemId]:
        """Returns the original ids of some items, as `item_id` does for one."""
        if self._numbers is not None:
            numbers: list[ItemId] = self._numbers[rows].tolist()
            return numbers
        return list(self._text_rows.of(rows))

    def titles_of(self, rows: list[int]) -> list[str]:
        """Returns the titles of some items, as `title` does for one."""
        return self._title_rows.of(rows)

    @cached_property
    def _numbers(self) -> np.ndarray | None:
        """The ids of all items as integers; None if they are texts."""
        if not pa.types.is_integer(self.ids.type):
            return None
        numbers: np.ndarray = self.ids.to_numpy(zero_copy_only=False)
        return numbers

    @cached_property
    def _text_rows(self) -> TextRows:
        return TextRows(self.texts)

    @cached_property
    def _title_rows(self) -> TextRows:
        return TextRows(self.titles)

    @cached_property
    def index(self) -> IdIndex:
        """The row ids of the items by their ids. It is made when it is first used."""
        return IdIndex(self.texts)

    def find(self, ids: pa.Array) -> np.ndarray:
        """Returns the row ids of items, int64, given by their ids as texts; -1 if unknown."""
        return self.index.places(ids)

    def item_list(self, ids: "Iterable[ItemId] | ItemList") -> "ItemList":
        """Looks up a list of items, such as those that a request denies.

        A list that many requests use is looked up once: they may be given the result.
        """
        if isinstance(ids, ItemList):
            return ids
        wanted = texts(ids).unique()
        rows = self.find(wanted)
        known = rows[rows >= 0]
        return ItemList(known, bits_of(known, len(self)), len(wanted) - len(known))

    def history(self, items: Iterable[ItemId]) -> np.ndarray:
        """Returns the row ids of a history that is given by original ids, oldest first.

        Raises:
            UserError: the history is empty, or has an item that does not exist.
        """
        wanted = texts(items)
        if not len(wanted):
            raise UserError("the history is empty: give item ids, oldest first")

        rows = self.find(wanted)
        if (rows < 0).any():
            unknown = shown(wanted[int(np.argmin(rows))])
            raise UserError(f"the history: data set '{self.name}' has no item {unknown}")
        return rows

    def allowed(
        self,
        allow: "Iterable[ItemId] | ItemList | None",
        deny: "Iterable[ItemId] | ItemList | None",
    ) -> ItemFilter | None:
        """Applies an allow list and a deny list.

        The lists may contain ids that are not in the catalogue. They are counted and logged.

        Returns:
            The filter; None if there are no lists.

        Raises:
            UserError: no item of the catalogue may be recommended.
        """
        lists = {}
        for kind, ids in (("allow", allow), ("deny", deny)):
            if ids is not None:
                lists[kind] = self.item_list(ids)
                log.info(
                    "%s list: %s items, %s of them not in the catalogue",
                    kind,
                    f"{len(lists[kind]):,}",
                    f"{lists[kind].unknown:,}",
                )
        return self.filter_of(lists.get("allow"), lists.get("deny"))

    def filter_of(self, allow: "ItemList | None", deny: "ItemList | None") -> ItemFilter | None:
        """Returns the filter of an allow list and a deny list; None without lists.

        Raises:
            UserError: no item of the catalogue may be recommended.
        """
        if allow is None and deny is None:
            return None
        if allow is not None and not len(allow.rows):
            raise UserError(f"the allow list names no item of data set '{self.name}'")

        # An item that is in both lists is denied.
        left = len(self) if allow is None else len(allow.rows)
        if deny is not None:
            denied = len(deny.rows)
            if allow is not None:
                denied = int(has_bits(deny.bits, allow.rows).sum())
            if denied == left:
                raise UserError("the deny list leaves no item to recommend")
        return ItemFilter(
            None if allow is None else allow.bits, None if deny is None else deny.bits
        )


@dataclass(frozen=True, eq=False)
class ItemList:
    """A list of items that was looked up. Any number of requests may use it.

    Attributes:
        rows: the row ids of the items, all different.
        bits: the same as bits (`retrieval/item_filter.py`).
        unknown: the number of other ids, which are not in the catalogue.
    """

    rows: np.ndarray
    bits: np.ndarray
    unknown: int

    def __len__(self) -> int:
        return len(self.rows) + self.unknown


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
