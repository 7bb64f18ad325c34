"""Finds items for users: encodes their histories, calibrates the heads, and searches."""

import sys
from dataclasses import replace
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.batch import times_and_events
from torchrec_priors.data.histories import Histories
from torchrec_priors.data.left_out import recent
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.heads.path_queries import PathQueries
from torchrec_priors.heads.repeat_shares import RepeatShares
from torchrec_priors.heads.score import Score
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.users import Columns
from torchrec_priors.priors.paths_of_users import GivenGroups
from torchrec_priors.retrieval.diversify import Diversifier
from torchrec_priors.retrieval.fusion import Fusion, blocks
from torchrec_priors.retrieval.group_index import GroupIndex
from torchrec_priors.retrieval.input_vectors import InputVectors
from torchrec_priors.retrieval.int8_search import Quantised
from torchrec_priors.retrieval.item_filter import Filters
from torchrec_priors.retrieval.resident import Resident
from torchrec_priors.retrieval.search import log_normalisers, search
from torchrec_priors.retrieval.search_types import Exclusions, Found, Queries, Repeats
from torchrec_priors.retrieval.together import Together
from torchrec_priors.settings.evaluation import RetrievalConfig

# The name of the repeat head.
REPEAT = "repeat"


def head_names(model: Recommender) -> list[str]:
    """Returns the names of all heads: those of the paths and, if there is one, the repeat head."""
    names = [path.name for path in model.tree.paths]
    if model.repeat_head is not None:
        names.append(REPEAT)
    return names


class Finder:
    """A model that is ready to find items for users.

    Every rank must create one, and make the same calls.
    """

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
            model: the model.
            index: the items on this rank that may be found.
            config: the settings of the search.
            device: the device of the model.
            diversifier: reorders lists by the data set's categories; it must be given if
                `config.diversify` is above 0, and only then.
        """
        assert (diversifier is not None) == (config.diversify > 0)
        can_calibrate = model.gate is not None or model.joint is not None
        assert can_calibrate or not config.calibrated, "a model without a gate cannot be calibrated"
        # With a repeat head, the scores of all heads are log-probabilities.
        self.calibrated = config.calibrated or model.repeat_head is not None
        self.model = model
        self.index = index
        # What the searches do with the rows of the index: nothing, if they are factors already.
        self.score = model.score if index.inputs is None else Score("dot")
        self.config = config
        self.device = device
        self.diversifier = diversifier

        # Calibration may estimate the sums of softmaxes from a sample of the items.
        self._sample = index.sample(config.normaliser_rows) if config.normaliser_rows else index
        self.resident: Resident | None = None
        self._resident_sample: Resident | None = None
        self._inputs: InputVectors | None = None
        self.together = Together(model)
        # TorchRec's tables count lookups, which is not meant for several threads.
        self._looking_up = Lock()
        self._quantised: Quantised | None = None
        if config.tiles == "int8":
            self._quantised = Quantised.of(index.shard.rows, self.score)
        self.fusion = Fusion(
            kind=config.fusion,
            calibrated=self.calibrated,
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
        """Makes a finder. If lists are diversified, the data set's category prior is used."""
        diversifier = None
        if config.diversify:
            diversifier = Diversifier.of(data, config.diversify, device)
        return cls(model, index, config, device, diversifier)

    def make_resident(self) -> None:
        """Prepares for requests: packs the candidates for the kernel, if there is a compiler.

        The kernel and the other searches find the same items; the last bits of scores may differ.
        """
        as_bytes = self.config.tiles == "int8" and self.config.fusion == "max"
        self.resident = Resident.of(
            self.index, self.score, as_bytes=as_bytes and not self.calibrated
        )
        self._resident_sample = self.resident
        if self.resident is not None and self._sample is not self.index:
            self._resident_sample = Resident.of(self._sample, self.score)
        # The kernel has bytes of its own.
        if self.resident is not None:
            self._quantised = None
        self._inputs = InputVectors.of(self.model, self.index)

    @property
    def is_local(self) -> bool:
        """Whether several threads may ask and find at the same time, as no call is a collective."""
        return self._inputs is not None and self.resident is not None

    @property
    def context(self) -> int:
        """The number of most recent items of each history that `contexts` needs.

        All items are needed if some have no row: `contexts` leaves these out, and then takes the
        last items that remain.
        """
        if self.model.item_rows.has_row_I is None:
            return self.model.config.context
        return sys.maxsize

    def contexts(self, users: Histories) -> Histories:
        """Returns users with exactly the items that the encoder reads in `items`.

        These are the last items with a row; items without a row are left out. All other methods
        take the result.
        """
        if self.model.item_rows.has_row_I is None:
            return users
        return recent(users, self.model.item_rows.has_row_I, self.model.config.context)

    @torch.no_grad()
    def histories(self, users: Histories) -> Jagged:
        """Returns the histories of this rank's users in the format of the encoder.

        The encoder accepts no empty history. So a filler item is put into each empty history. If
        there are no users, a single history with the filler item is returned.
        """
        items, columns = self._never_empty(users)
        lengths = np.maximum(users.lengths, 1)
        if not len(users):
            lengths = np.ones(1, np.int64)

        time_N, event_N = (
            None if values is None else values.to(self.device)
            for values in times_and_events(columns)
        )
        if self._inputs is not None:
            offsets_B1 = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
            return Jagged(self._inputs.of_items(items), offsets_B1, time_N, event_N)
        ids, item_N = self.to_ids(items, lengths)
        with self._looking_up:
            vector_Nd = self.model.tokens(ids, item_N)
        return Jagged(vector_Nd, ids.offsets(), time_N, event_N)

    def to_ids(self, items: np.ndarray, lengths: np.ndarray) -> tuple[KeyedJaggedTensor, Tensor]:
        """Returns the items as input of the embedding table, and as a tensor of row ids.

        Args:
            items: the items of one history after another, which must have rows.
            lengths: the number of items in each history.
        """
        values = torch.from_numpy(self.model.item_rows.to_ids(items))
        ids = KeyedJaggedTensor(keys=[FEATURE], values=values, lengths=torch.from_numpy(lengths))
        return ids.to(self.device), torch.from_numpy(items).to(self.device)

    @torch.no_grad()
    def ask(self, users: Histories) -> PathQueries:
        """Computes the queries of all paths for this rank's users."""
        return self.model.queries(self.histories(users)).first(len(users))

    @torch.no_grad()
    def queries(
        self, users: Histories, asked: PathQueries, given: GivenGroups | None = None
    ) -> Queries:
        """Returns the queries to search with: those in `asked`, with a bias for each path.

        The bias is -inf for a path that is closed to the user. For other paths it is the
        calibration, or 0 if scores are not calibrated. With a joint softmax, it also has the
        logits of the gate.

        Args:
            users: the users.
            asked: the queries of all paths.
            given: groups of the users that are given by a request (`PathsOfUsers.allowed`).
        """
        tree = self.model.tree
        user_B = torch.from_numpy(users.users).to(self.device)

        # A path is closed if it belongs to a group that the user is not in. All paths are closed to
        # a user without a known item.
        queries = Queries.unbiased(asked.query_BKd)
        allowed_BK = tree.paths_of_users.allowed(user_B, given)
        if allowed_BK is not None:
            queries = queries.within(allowed_BK)
        unknown_B = self._without_history(users)
        if unknown_B is not None:
            queries = queries.within(~unknown_B[:, None].expand_as(queries.bias_BK))
        if self.model.joint is not None:
            return self._of_joint_softmax(users, queries, asked)
        if not self.calibrated:
            return queries

        # Calibration adds log P(group | user), and subtracts the logarithm of the sum in the
        # group's softmax.
        sums_BK = self._log_sums(users, queries)
        calibration_BK = asked.log_group_BK - sums_BK
        if self.config.fusion == "mean":
            # The heads of a user's several groups estimate the same probability. Dividing by their
            # number makes their sum a mean.
            calibration_BK = calibration_BK - tree.paths_of_users.open_groups(user_B, given).log()
        calibrated = replace(queries, bias_BK=queries.bias_BK + calibration_BK)
        if asked.repeats is None:
            return calibrated
        return self._with_repeats(users, calibrated, asked.repeats)

    def _log_sums(self, users: Histories, queries: Queries) -> Tensor:
        """Returns the logarithm of the sum in each path's softmax, [B, K].

        If training excluded seen items from the negatives, the sum is without seen items, too.
        """
        seen = self._hidden(users) if self.model.behaviour.hides_seen else None
        return log_normalisers(self._sample, self.score, queries, seen, self._resident_sample)

    def _of_joint_softmax(self, users: Histories, queries: Queries, asked: PathQueries) -> Queries:
        """Returns queries with the biases of a joint softmax.

        The scores of all heads are on one scale. To turn them into log-probabilities, calibration
        subtracts the logarithm of the sum over all items of the open paths.
        """
        bias_BK = queries.bias_BK + asked.log_group_BK
        queries = replace(queries, bias_BK=bias_BK)
        if not self.calibrated:
            return queries

        sums_BK = self._log_sums(users, queries)
        total_B1 = torch.logsumexp(sums_BK + bias_BK, 1, keepdim=True)
        total_B1 = total_B1.masked_fill(torch.isneginf(total_B1), 0.0)
        queries = replace(queries, bias_BK=bias_BK - total_B1)
        if asked.repeats is None:
            return queries
        return self._with_repeats(users, queries, asked.repeats)

    @torch.no_grad()
    def find(
        self,
        users: Histories,
        queries: Queries,
        k: int,
        index: GroupIndex | None = None,
        filters: Filters | None = None,
        threads: int = 1,
    ) -> Found:
        """Finds the k best items of each of this rank's users.

        Args:
            users: the users (see `contexts`); the items in their histories are left out if
                `config.filter_seen`.
            queries: the queries of the users.
            k: the number of items for each user.
            index: the items that may be found; by default all items of `self.index`.
            filters: the items that may be found, for each user or for all (see `search`).
            threads: see `search`.
        """
        # Items of the context are found by the repeat head, and by no other head.
        excluded = self._hidden(users) if self.model.repeat_head is not None else None
        if self.config.filter_seen:
            excluded = self._seen(users)
        # Diversification needs all candidates, even for a shorter list.
        searched = k
        if self.diversifier is not None:
            searched = self.diversifier.searched(k)

        found = search(
            index or self.index,
            self.score,
            queries,
            excluded,
            searched,
            self.fusion,
            self._quantised,
            resident=self.resident if index is None else None,
            filters=filters,
            threads=threads,
        )
        if self.diversifier is None:
            return found
        return self.diversifier.rerank(found).first(k)

    def _never_empty(self, users: Histories) -> tuple[np.ndarray, Columns]:
        """Puts a filler item, which has a row, into each empty history.

        Without users, it returns a single history with the filler item, and no columns.
        """
        filler = self.model.item_rows.an_item
        if not len(users):
            return np.full(1, filler), {}

        ends = np.cumsum(users.lengths)[users.lengths == 0]
        if not len(ends):
            return users.items, users.columns
        filled = {name: np.insert(values, ends, 0) for name, values in users.columns.items()}
        return np.insert(users.items, ends, filler), filled

    def _without_history(self, users: Histories) -> Tensor | None:
        """Returns bool [B]: whether no item in the user's history has a row.

        It returns None if all items have rows.
        """
        has_row_I = self.model.item_rows.has_row_I
        if has_row_I is None:
            return None
        # The whole history is considered, not only the context that the encoder reads.
        user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
        known_B = np.bincount(user_X[has_row_I[users.seen]], minlength=len(users)) > 0
        return torch.from_numpy(~known_B).to(self.device)

    def _seen(self, users: Histories) -> Exclusions:
        """Returns the items in the users' histories, as exclusions."""
        return Exclusions.of(users.seen, users.seen_lengths)

    def _hidden(self, users: Histories) -> Exclusions:
        """Returns the items that the prior heads do not predict, as exclusions.

        With a repeat head, these are the items of the contexts. Otherwise, they are all seen items.
        """
        if self.model.repeat_head is None:
            return self._seen(users)
        return Exclusions.of(users.items, users.lengths)

    def _with_repeats(self, users: Histories, queries: Queries, shares: RepeatShares) -> Queries:
        """Adds the repeats of the users, and log P(new | user) to the scores of all paths."""
        new_B1 = F.logsigmoid(-shares.logit_B)[:, None]
        queries = replace(queries, bias_BK=queries.bias_BK + new_B1)
        if self.config.filter_seen:
            return queries

        # A history without items has the share of a filler item, which is left out here.
        lengths = users.lengths
        history = np.repeat(np.arange(len(users)), np.maximum(lengths, 1))
        is_item = torch.from_numpy((lengths > 0)[history]).to(self.device)
        user_N = torch.from_numpy(np.repeat(np.arange(len(users)), lengths)).to(self.device)
        item_N = torch.from_numpy(users.items.astype(np.int64)).to(self.device)

        # The share of an item is the sum over its positions, in double precision.
        pair_R, pair_N = torch.unique(user_N * self.model.tree.items + item_N, return_inverse=True)
        share_N = shares.log_share_N[is_item].double().exp()
        share_R = torch.zeros(len(pair_R), dtype=torch.float64, device=self.device)
        share_R.index_add_(0, pair_N, share_N)

        user_R = pair_R // self.model.tree.items
        score_R = share_R.log() + F.logsigmoid(shares.logit_B.double())[user_R]
        repeats = Repeats(user_R, pair_R % self.model.tree.items, score_R.float())
        return replace(queries, repeats=repeats)
