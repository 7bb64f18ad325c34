"""From users' histories to what is found for them: queries of every path, what is added to their scores, the search."""

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
from torchrec_priors.prepared.data_set import Columns
from torchrec_priors.retrieval.diversify import CANDIDATES, Diversifier
from torchrec_priors.retrieval.fusion import Fusion, blocks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.search import log_normalisers, search
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries
from torchrec_priors.settings.evaluation import RetrievalConfig


class Finder:
    """A model, ready to find items for users. Every rank must make one and call it alike."""

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
            diversifier: of the data set, where `config.diversify`.
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
        self._sample = index.sample(config.normaliser_rows) if config.normaliser_rows else index
        self._bytes = (
            Quantised.of(index.shard.rows, model.score) if config.tiles == "int8" else None
        )
        self.fusion = Fusion(
            kind=config.fusion,
            calibrated=config.calibrated,
            block_K=blocks(model.tree) if config.fusion == "hierarchical" else None,
            variance_K=model.certainty.variance() if config.fusion == "inverse_variance" else None,
            branch_K=model.tree.branch_K,
        )

    @property
    def context(self) -> int:
        """How much of histories `find` wants: all of it where items without a row are left out of them."""
        return self.model.config.context if self.model.item_rows.has_row_I is None else sys.maxsize

    @torch.no_grad()
    def histories(self, users: Histories) -> Jagged:
        """This rank's users as the encoder takes them; a history of one item stands for one of which nothing is known,
        and for that of nobody where there are no users."""
        items = users.items
        lengths = users.lengths
        columns = users.columns
        if self.model.item_rows.has_row_I is not None:
            items, lengths, columns = recent(
                users, self.model.item_rows.has_row_I, self.model.config.context
            )
        items, columns = self._never_empty(items, lengths, columns)
        beside = times_and_events(columns)
        time_N, event_N = (None if values is None else values.to(self.device) for values in beside)
        ids, item_N = self.to_ids(
            items, np.maximum(lengths, 1) if len(users) else np.ones(1, np.int64)
        )
        return Jagged(self.model.tokens(ids, item_N), ids.offsets(), time_N, event_N)

    def _never_empty(
        self, items: np.ndarray, lengths: np.ndarray, columns: Columns
    ) -> tuple[np.ndarray, Columns]:
        """With an item that has a row wherever a history is empty, and columns only where there are users."""
        someone = self.model.item_rows.an_item
        if not len(lengths):
            return np.full(1, someone), {}
        ends = np.cumsum(lengths)[lengths == 0]
        if not len(ends):
            return items, columns
        beside = {name: np.insert(values, ends, 0) for name, values in columns.items()}
        return np.insert(items, ends, someone), beside

    def to_ids(self, items: np.ndarray, lengths: np.ndarray) -> tuple[KeyedJaggedTensor, Tensor]:
        """Histories of items as the table's input; and the items."""
        values = torch.from_numpy(self.model.item_rows.to_ids(items))
        ids = KeyedJaggedTensor(keys=[FEATURE], values=values, lengths=torch.from_numpy(lengths))
        return ids.to(self.device), torch.from_numpy(items).to(self.device)

    def _without_history(self, users: Histories) -> Tensor | None:
        """bool [B]: users of whose items none has a row; None where that cannot be."""
        has_row_I = self.model.item_rows.has_row_I
        if has_row_I is None:
            return None
        user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
        known_B = np.bincount(user_X[has_row_I[users.seen]], minlength=len(users)) > 0
        return torch.from_numpy(~known_B).to(self.device)

    @torch.no_grad()
    def ask(self, users: Histories) -> PathQueries:
        """What the paths ask for, for this rank's users."""
        return self.model.queries(self.histories(users)).first(len(users))

    @torch.no_grad()
    def queries(self, users: Histories, asked: PathQueries) -> Queries:
        """What is searched for: the paths' queries, and what is added to each path's scores."""
        tree = self.model.tree
        user_B = torch.from_numpy(users.users).to(self.device)
        queries = Queries.unbiased(asked.query_BKd)
        allowed_BK = tree.allowed_paths(user_B)
        if allowed_BK is not None:
            queries = queries.within(allowed_BK)
        without_B = self._without_history(users)
        if without_B is not None:  # nothing is found for them
            queries = queries.within(~without_B[:, None].expand_as(queries.bias_BK))
        if not self.config.calibrated:
            return queries
        met = self._seen(users) if self.model.behaviour.hides_seen else None
        calibration_BK = asked.log_group_BK - log_normalisers(
            self._sample, self.model.score, queries, met
        )
        if self.config.fusion == "mean":  # over the users' groups, too
            calibration_BK = calibration_BK - tree.open_groups(user_B).log()
        return Queries(asked.query_BKd, queries.bias_BK + calibration_BK)

    def _seen(self, users: Histories) -> Exclusions:
        return Exclusions.of(users.seen, users.seen_lengths)

    @torch.no_grad()
    def find(
        self, users: Histories, queries: Queries, k: int, index: GroupIndex | None = None
    ) -> Found:
        """Top-k of this rank's users.

        Args:
            index: what may be found, where that is not everything.
        """
        excluded = self._seen(users) if self.config.filter_seen else None
        wanted = k if self.diversifier is None else max(k, CANDIDATES)
        found = search(
            index or self.index,
            self.model.score,
            queries,
            excluded,
            wanted,
            self.fusion,
            self._bytes,
        )
        return found if self.diversifier is None else self.diversifier.rerank(found).first(k)
