"""From users' histories to the items found for them: queries, calibration, the search."""

import sys

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.batch import times_and_events
from torchrec_priors.data.histories import Histories
from torchrec_priors.data.left_out import recent
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.model import PathQueries, Recommender
from torchrec_priors.prepared.data_set import Columns, PreparedData
from torchrec_priors.retrieval.diversify import CANDIDATES, Diversifier
from torchrec_priors.retrieval.fusion import Fusion, blocks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.search import log_normalisers, search
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries
from torchrec_priors.settings.evaluation import RetrievalConfig


class Finder:
    """A model, ready to find items for users. Every rank must create one and call it alike."""

    def __init__(
        self,
        model: Recommender,
        index: GroupIndex,
        config: RetrievalConfig,
        device: torch.device,
        diversifier: Diversifier | None = None,
    ) -> None:
        """
        Args:
            diversifier: of the data set, if `config.diversify`.
        """
        assert (diversifier is not None) == (config.diversify > 0)
        assert model.gate is not None or not config.calibrated, (
            "a model without a gate cannot be calibrated"
        )
        self.model = model
        self.index = index
        self.config = config
        self.device = device
        self.diversifier = diversifier

        # Calibration may sum over a sample of the items; the search reads vectors or their bytes.
        self._sample = index.sample(config.normaliser_rows) if config.normaliser_rows else index
        self._bytes: Quantised | None = None
        if config.tiles == "int8":
            self._bytes = Quantised.of(index.shard.rows, model.score)
        self.fusion = Fusion(
            kind=config.fusion,
            calibrated=config.calibrated,
            block_K=blocks(model.tree) if config.fusion == "hierarchical" else None,
            variance_K=model.certainty.variance() if config.fusion == "inverse_variance" else None,
            branch_K=model.tree.branch_K,
        )

    @classmethod
    def of(
        cls,
        model: Recommender,
        index: GroupIndex,
        config: RetrievalConfig,
        data: PreparedData,
        device: torch.device,
    ) -> "Finder":
        """For users of a data set, whose category prior diversifies lists, if that is wanted."""
        diversifier = None
        if config.diversify:
            diversifier = Diversifier.of(data, config.diversify, device)
        return cls(model, index, config, device, diversifier)

    @property
    def context(self) -> int:
        """How many items of a history `find` needs.

        If items without a row are left out of histories, all items: the last ones with a row are
        chosen later.
        """
        if self.model.item_rows.has_row_I is None:
            return self.model.config.context
        return sys.maxsize

    @torch.no_grad()
    def histories(self, users: Histories) -> Jagged:
        """This rank's users as the encoder takes them.

        No history may be empty, so one item is put into the history of a user of whom nothing is
        known, and into that of a made-up user if there are no users.
        """
        items = users.items
        lengths = users.lengths
        columns = users.columns
        # Items without a row are left out first: the context holds the last items that have one.
        if self.model.item_rows.has_row_I is not None:
            items, lengths, columns = recent(
                users, self.model.item_rows.has_row_I, self.model.config.context
            )
        items, columns = self._never_empty(items, lengths, columns)
        lengths = np.maximum(lengths, 1)
        if not len(users):
            lengths = np.ones(1, np.int64)

        time_N, event_N = (
            None if values is None else values.to(self.device)
            for values in times_and_events(columns)
        )
        ids, item_N = self.to_ids(items, lengths)
        return Jagged(self.model.tokens(ids, item_N), ids.offsets(), time_N, event_N)

    def to_ids(self, items: np.ndarray, lengths: np.ndarray) -> tuple[KeyedJaggedTensor, Tensor]:
        """Histories of items as the table's input; and the items."""
        values = torch.from_numpy(self.model.item_rows.to_ids(items))
        ids = KeyedJaggedTensor(keys=[FEATURE], values=values, lengths=torch.from_numpy(lengths))
        return ids.to(self.device), torch.from_numpy(items).to(self.device)

    @torch.no_grad()
    def ask(self, users: Histories) -> PathQueries:
        """The paths' queries for this rank's users."""
        return self.model.queries(self.histories(users)).first(len(users))

    @torch.no_grad()
    def queries(self, users: Histories, asked: PathQueries) -> Queries:
        """The queries to search with: those of `asked`, and what is added to each path's scores."""
        tree = self.model.tree
        user_B = torch.from_numpy(users.users).to(self.device)

        # Paths of other groups of users are closed, and all paths of users without known items.
        queries = Queries.unbiased(asked.query_BKd)
        allowed_BK = tree.allowed_paths(user_B)
        if allowed_BK is not None:
            queries = queries.within(allowed_BK)
        unknown_B = self._without_history(users)
        if unknown_B is not None:
            queries = queries.within(~unknown_B[:, None].expand_as(queries.bias_BK))
        if not self.config.calibrated:
            return queries

        # log P(group | user) - log of the softmax's sum over the items it was trained against:
        # without seen items, if those were no negatives.
        seen = self._seen(users) if self.model.behaviour.hides_seen else None
        sums_BK = log_normalisers(self._sample, self.model.score, queries, seen)
        calibration_BK = asked.log_group_BK - sums_BK
        if self.config.fusion == "mean":
            # Heads of the user's groups estimate the same probability: their mean is taken, too.
            calibration_BK = calibration_BK - tree.open_groups(user_B).log()
        return Queries(asked.query_BKd, queries.bias_BK + calibration_BK)

    @torch.no_grad()
    def find(
        self, users: Histories, queries: Queries, k: int, index: GroupIndex | None = None
    ) -> Found:
        """Top-k of this rank's users.

        Args:
            index: what may be found, if that is not everything.
        """
        excluded = self._seen(users) if self.config.filter_seen else None
        # A diversified list is picked from more candidates than it has places.
        searched = k
        if self.diversifier is not None:
            searched = max(k, CANDIDATES)

        found = search(
            index or self.index,
            self.model.score,
            queries,
            excluded,
            searched,
            self.fusion,
            self._bytes,
        )
        if self.diversifier is None:
            return found
        return self.diversifier.rerank(found).first(k)

    def _never_empty(
        self, items: np.ndarray, lengths: np.ndarray, columns: Columns
    ) -> tuple[np.ndarray, Columns]:
        """The histories with an item that has a row in each empty one.

        Without users, a history of one item and no columns.
        """
        filler = self.model.item_rows.an_item
        if not len(lengths):
            return np.full(1, filler), {}

        ends = np.cumsum(lengths)[lengths == 0]
        if not len(ends):
            return items, columns
        filled = {name: np.insert(values, ends, 0) for name, values in columns.items()}
        return np.insert(items, ends, filler), filled

    def _without_history(self, users: Histories) -> Tensor | None:
        """bool [B]: users none of whose items has a row; None if all items have one."""
        has_row_I = self.model.item_rows.has_row_I
        if has_row_I is None:
            return None
        # The whole history counts, not only the context that the encoder reads.
        user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
        known_B = np.bincount(user_X[has_row_I[users.seen]], minlength=len(users)) > 0
        return torch.from_numpy(~known_B).to(self.device)

    def _seen(self, users: Histories) -> Exclusions:
        return Exclusions.of(users.seen, users.seen_lengths)
