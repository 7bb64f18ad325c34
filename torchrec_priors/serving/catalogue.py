"""Items as people know them: original ids and titles, and lists of them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.data.id_files import places
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError

log = logging.getLogger(__name__)

ItemId = int | str


@dataclass(frozen=True)
class Catalogue:
    """Original ids and titles by row.

    Attributes:
        name: of the data set, for messages.
        texts: the ids as texts, which is how ids are compared: 7 and "7" are the same item.
    """

    name: str
    ids: pa.Array
    titles: pa.Array
    texts: pa.Array

    @classmethod
    def of(cls, data: PreparedData) -> "Catalogue":
        table = data.catalogue(["item_id", "title"])
        ids = table["item_id"].combine_chunks()
        return cls(data.manifest.name, ids, table["title"].combine_chunks(), ids.cast(pa.string()))

    def __len__(self) -> int:
        return len(self.ids)

    def item_id(self, row: int) -> ItemId:
        item: ItemId = self.ids[row].as_py()
        return item

    def title(self, row: int) -> str:
        return str(self.titles[row].as_py())

    def history(self, items: Iterable[ItemId]) -> np.ndarray:
        """Rows of a history of original ids, oldest first.

        Raises:
            UserError: it is empty, or names an item that there is not.
        """
        wanted = texts(items)
        if not len(wanted):
            raise UserError("the history is empty: give item ids, oldest first")
        rows = places(wanted, self.texts)
        if (rows < 0).any():
            raise UserError(f"the history: data set '{self.name}' has no item '{wanted[int(np.argmin(rows))]}'")
        return rows

    def allowed(self, allow: Iterable[ItemId] | None, deny: Iterable[ItemId] | None) -> np.ndarray | None:
        """bool by row, whether an item may be recommended; None where there are no lists.

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
            allowed &= ~self._listed("deny", texts(deny))
            if not allowed.any():
                raise UserError("the deny list leaves no item to recommend")
        return allowed

    def _listed(self, kind: str, ids: pa.Array) -> np.ndarray:
        distinct = ids.unique()
        listed: np.ndarray = pc.is_in(self.texts, value_set=distinct).to_numpy(zero_copy_only=False)
        known = int(listed.sum())
        log.info("%s list: %s items, %s of them not in the catalogue", kind, f"{len(distinct):,}",
                 f"{len(distinct) - known:,}")  # fmt: skip
        return listed


def texts(ids: Iterable[ItemId]) -> pa.Array:
    """Ids as the texts that they are compared as."""
    if isinstance(ids, str):
        raise UserError(f"'{ids}' is one id: give a list of ids")
    return ids if isinstance(ids, pa.Array) else pa.array([str(item) for item in ids], pa.string())
