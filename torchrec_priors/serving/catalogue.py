"""Items as users know them: original ids and titles, and lists of them."""

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

# An id in quotes, in which quotes are doubled, or one without; then a comma or the end.
_LISTED = re.compile(r'(?:\s*"((?:[^"]|"")*)"\s*|([^,]*))(?:,|\Z)')


@dataclass(frozen=True)
class Catalogue:
    """Original ids and titles by row.

    Attributes:
        name: of the data set, for messages.
        ids: as they were given, integers or texts.
        titles: null if an item has none.
        texts: the ids as texts, which is how ids are compared: 7 and "7" are the same item.
    """

    name: str
    ids: pa.Array
    titles: pa.Array
    texts: pa.Array

    @classmethod
    def of(cls, data: PreparedData) -> "Catalogue":
        table = data.catalogue(["item_id", "title"])
        # One chunk, of which `take` copies no more than what is taken.
        ids = table["item_id"].combine_chunks()
        texts = id_texts(ids, f"items of data set '{data.manifest.name}'")
        return cls(data.manifest.name, ids, plain_array(table["title"]), texts)

    def __len__(self) -> int:
        return len(self.ids)

    def item_id(self, row: int) -> ItemId:
        """An integer if ids are integers, otherwise its text."""
        ids = self.ids if pa.types.is_integer(self.ids.type) else self.texts
        item: ItemId = ids[row].as_py()
        return item

    def title(self, row: int) -> str:
        """Empty if the item has none."""
        title = self.titles[row].as_py()
        return "" if title is None else str(title)

    def history(self, items: Iterable[ItemId]) -> np.ndarray:
        """Rows of a history of original ids, oldest first.

        Raises:
            UserError: it is empty, or names an item that does not exist.
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
        """bool by row, whether an item may be recommended; None if there are no lists.

        Lists may name items that the catalogue lacks, which are counted and logged.

        Raises:
            UserError: no item of the catalogue is left.
        """
        if allow is None and deny is None:
            return None

        allowed = np.ones(len(self), bool)
        if allow is not None:
            allowed = self._listed("allow", texts(allow))
            if not allowed.any():
                raise UserError(f"the allow list names no item of data set '{self.name}'")
        if deny is not None:
            # An item in both lists is denied.
            allowed &= ~self._listed("deny", texts(deny))
            if not allowed.any():
                raise UserError("the deny list leaves no item to recommend")
        return allowed

    def _listed(self, kind: str, ids: pa.Array) -> np.ndarray:
        """bool by row, whether an item is in a list; says how many of the list are unknown."""
        # A list may name an item twice, which counts once.
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
    """The ids of a text, separated by commas. An id with a comma, or a blank at an end, is quoted.

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
    """Ids as the texts that they are compared as."""
    # A text is also a sequence, of its letters: surely not what was meant.
    if isinstance(ids, str):
        raise UserError(f"'{ids}' is one id: give a list of ids")
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return id_texts(ids, "ids")
    return pa.array([str(item) for item in ids], pa.string())
