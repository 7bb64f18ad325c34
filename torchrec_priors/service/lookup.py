"""What a person searches: items by their titles and ids, and users by their ids.

The indexes of a version of the model are made once, by the first search. For a catalogue of a
million titles this takes some seconds.
"""

from threading import Lock
from weakref import WeakKeyDictionary

from torchrec_priors.prepared.id_index import IdIndex
from torchrec_priors.service.sorted_ids import SortedIds
from torchrec_priors.service.title_index import TitleIndex
from torchrec_priors.serving.catalogue import Catalogue
from torchrec_priors.serving.run import LoadedRun


class Lookup:
    """The items and the users of one version. Any thread may call it."""

    def __init__(self, catalogue: Catalogue, titles: TitleIndex, users: IdIndex) -> None:
        """
        Args:
            catalogue: the items.
            titles: their titles.
            users: the ids of the users.
        """
        self._catalogue = catalogue
        self._titles = titles
        self._item_ids = SortedIds(catalogue.texts)
        self._users = users.texts
        self._user_ids = SortedIds(users.texts)

    @classmethod
    def of(cls, run: LoadedRun) -> "Lookup":
        """Makes the indexes of a run."""
        frequency = run.data.catalogue(["frequency"])["frequency"].to_numpy()
        titles = TitleIndex(run.catalogue.titles, frequency)
        return cls(run.catalogue, titles, run.path.stored.index)

    def items(self, query: str, limit: int) -> list[int]:
        """Returns the row ids of items that match a query, by their ids or titles.

        The item with this very id comes first, then come items by the words of their titles
        (`TitleIndex.find`), then items whose ids begin with the query.

        Args:
            query: the query.
            limit: how many items are returned at most.
        """
        query = query.strip()
        by_id = self._item_ids.beginning(query, limit) if query else []
        is_exact = bool(by_id) and self._catalogue.texts[by_id[0]].as_py() == query
        exact = by_id[: int(is_exact)]
        rows = dict.fromkeys([*exact, *self._titles.find(query, limit), *by_id])
        return list(rows)[:limit]

    def users(self, query: str, limit: int) -> list[str]:
        """Returns ids of users that begin with a query, in the order of their bytes."""
        return [self._users[place].as_py() for place in self._user_ids.beginning(query, limit)]

    def count_users(self, query: str) -> int:
        """Returns how many ids of users begin with a query."""
        return self._user_ids.count(query)


class Lookups:
    """The indexes of each version that is in memory."""

    def __init__(self) -> None:
        self._of_run: WeakKeyDictionary[LoadedRun, Lookup] = WeakKeyDictionary()
        self._making = Lock()

    def of(self, run: LoadedRun) -> Lookup:
        """Returns the indexes of a run; makes them when it is first called for the run."""
        # One thread makes them, and others wait for it.
        with self._making:
            lookup = self._of_run.get(run)
            if lookup is None:
                lookup = Lookup.of(run)
                self._of_run[run] = lookup
            return lookup
