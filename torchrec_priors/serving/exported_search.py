"""Finds the best items with an exported model: all heads, levers and fusion, in one process.

It computes what `Finder` computes, directly from the definition and with matrix products of torch,
for one user at a time. The scores of some items at a time are in memory.

Shapes: K paths, I items, T items of a tile, R branches, d width.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.errors import UserError
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.fusion import Fusion
from torchrec_priors.retrieval.item_filter import EVERYTHING, ItemFilter, bits_of
from torchrec_priors.retrieval.keys import NOTHING, encode, row_of, score_of
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.serving.catalogue import Catalogue
from torchrec_priors.serving.exported_tree import ExportedTree
from torchrec_priors.serving.head_names import HeadNames
from torchrec_priors.serving.item_labels import ItemLabels
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.reasons import Facts, Reasons
from torchrec_priors.serving.request import Answer, Recommendation
from torchrec_priors.serving.score_names import score_name
from torchrec_priors.serving.shares import Shares
from torchrec_priors.serving.user_context import Skipped
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.model import ScoreKind

_TILE = 1 << 16  # items whose scores are in memory at a time


@dataclass(frozen=True)
class Asked:
    """What the model says about a user.

    Attributes:
        query_Kd: the query of each path.
        log_group_K: the logarithm of the probability that a target is in the path's item set; with
            a joint softmax, the logit of the set.
        rows: the row ids of the items in the user's history.
    """

    query_Kd: Tensor
    log_group_K: Tensor
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class ExportedSearch:
    """The items and heads of an export, and how scores become one.

    Attributes:
        config: the settings of the search. All items are used for calibration, even if
            `normaliser_rows` is above 0.
        score: how a query and an item are compared (`model.score`).
        joint: whether all heads were trained in one softmax (`loss.softmax`).
        hides_seen: whether training left items of the history out of the negatives.
        tree: the prior tree.
        catalogue: the ids and titles of the items.
        vector_Id: the vectors that scores are computed with.
        eligible_KI: bool, whether a head may retrieve an item.
        member_KI: bool, whether an item is in the group of a head, even if it is not retrieved.
        log_alternatives_RI: the logarithm of c_k(i) (`retrieval/fusion.py`), if the fusion needs
            it; otherwise zeros.
        variance_K: the variance of each head's loss, if the fusion needs it.
        labels: the labels of the items; None if reasons name none.
    """

    config: RetrievalConfig
    score: ScoreKind
    joint: bool
    hides_seen: bool
    tree: ExportedTree
    catalogue: Catalogue
    vector_Id: Tensor
    eligible_KI: Tensor
    member_KI: Tensor
    log_alternatives_RI: Tensor
    variance_K: Tensor | None
    labels: ItemLabels | None

    @torch.no_grad()
    def answer(
        self, asked: Asked, k: int, levers: Levers, item_filter: ItemFilter, skipped: Skipped
    ) -> Answer:
        """Finds the best items of a user.

        Args:
            asked: the user.
            k: the number of items.
            levers: how heads are used.
            item_filter: the items that may be recommended.
            skipped: what of the request was skipped.

        Raises:
            UserError: a lever or k cannot be used with this export.
        """
        if self.config.diversify:
            raise UserError(
                "recommend: the run diversifies its lists (evaluation.diversify), which an export "
                "cannot do: use the scores, or serve the run"
            )
        items = len(self.catalogue)
        if not 1 <= k <= items:
            raise UserError(f"k = {k:,} must be from 1 to the {items:,} items of the export")

        # Levers find heads by the parts of the tree that an export has.
        names = HeadNames(cast(PriorTree, self.tree))
        bias_K = self._bias(asked)
        of_levers_K = levers.bias(names)
        if of_levers_K is not None:
            self._check_reach(of_levers_K, item_filter)
            bias_K = bias_K + of_levers_K
        groups = {name: self._bits(path_K) for name, path_K in levers.shares(names).items()}

        short: tuple[str, ...] = ()
        if groups:
            found, short = self._with_shares(asked, bias_K, k, levers, groups, item_filter)
        else:
            found = self._find(asked, bias_K, k, item_filter)
        explained = self._explained(asked, bias_K, found)
        return Answer(explained, "model", skipped, short, self._score_name())

    def _find(self, asked: Asked, bias_K: Tensor, k: int, item_filter: ItemFilter) -> Found:
        """Returns the k best items that a filter allows; the batch has one user."""
        key_k = torch.full((k,), NOTHING, dtype=torch.int64)
        path_k = torch.zeros(k, dtype=torch.int64)
        fusion = self._fusion()
        for tile in self._tiles():
            row_T = np.arange(tile.start, tile.stop)
            score_KT = self._scores(asked, tile) + bias_K[:, None]
            score_T, path_T = self._fused(fusion, score_KT, tile)

            closed_T = ~item_filter.allows(row_T)
            if self.config.filter_seen:
                closed_T |= np.isin(row_T, asked.rows)
            score_T = score_T.masked_fill(torch.from_numpy(closed_T), -torch.inf)

            key_T = encode(score_T, torch.from_numpy(row_T))
            key_k, chosen_k = torch.cat([key_k, key_T]).topk(k)
            path_k = torch.cat([path_k, path_T])[chosen_k]
        return Found(row_of(key_k)[None], score_of(key_k)[None], path_k[None])

    def _fused(self, fusion: Fusion, score_KT: Tensor, tile: slice) -> tuple[Tensor, Tensor]:
        """Returns the fused scores of a tile, and the paths that contributed most."""
        if fusion.kind == "max":
            score_T, path_T = score_KT.max(0)
            return score_T, path_T
        fused = fusion.accumulator(1, self.log_alternatives_RI[:, tile])
        fused.add(slice(None), score_KT[None], torch.arange(len(score_KT))[None])
        score_BT, path_BT = fused.result()
        return score_BT[0], path_BT[0].long()

    def _fusion(self) -> Fusion:
        """Returns the fusion of the run."""
        kind = self.config.fusion
        return Fusion(
            kind,
            self.config.calibrated,
            block_K=self.tree.block_K if kind == "hierarchical" else None,
            variance_K=self.variance_K if kind == "inverse_variance" else None,
            branch_K=self.tree.branch_K,
        )

    def _bias(self, asked: Asked) -> Tensor:
        """Returns what is added to the scores of each head, as `Finder.queries` does."""
        if not self.config.calibrated:
            return asked.log_group_K if self.joint else torch.zeros(len(self.tree.paths))

        sum_K = self._log_sums(asked)
        if self.joint:
            return asked.log_group_K - torch.logsumexp(sum_K + asked.log_group_K, 0)
        bias_K = asked.log_group_K - sum_K
        if self.config.fusion == "mean":
            bias_K = bias_K - self.tree.open_groups().log()
        return bias_K

    def _log_sums(self, asked: Asked) -> Tensor:
        """Returns log sum exp of the scores of each head; 0 for a head without items."""
        sum_K = torch.full((len(self.tree.paths),), -torch.inf, dtype=torch.float64)
        for tile in self._tiles():
            score_KT = self._scores(asked, tile).double()
            if self.hides_seen:
                seen_T = np.isin(np.arange(tile.start, tile.stop), asked.rows)
                score_KT = score_KT.masked_fill(torch.from_numpy(seen_T), -torch.inf)
            sum_K = torch.logaddexp(sum_K, torch.logsumexp(score_KT, 1))
        return sum_K.float().masked_fill(torch.isneginf(sum_K), 0.0)

    def _with_shares(
        self,
        asked: Asked,
        bias_K: Tensor,
        k: int,
        levers: Levers,
        groups: dict[str, np.ndarray],
        item_filter: ItemFilter,
    ) -> tuple[Found, tuple[str, ...]]:
        """Finds a list in which groups have their shares; returns the groups that lack items, too.

        Args:
            asked, bias_K, k, item_filter: as for `_find`.
            levers: the levers, with the shares.
            groups: for each group with a share, the bits of its items.
        """
        items = len(self.catalogue)
        retrievable = self._bits(torch.ones(len(self.tree.paths), dtype=torch.bool))
        allowed = item_filter.allows(np.arange(items))
        candidates = retrievable & bits_of(np.flatnonzero(allowed), items)
        shares = Shares(dict(levers.at_least), groups, k, candidates, lambda count: count)
        found, short_BJ = shares.find(
            lambda bits: self._find(asked, bias_K, k, EVERYTHING.within(bits))
        )
        lacking = zip(shares.names, short_BJ[0].tolist(), strict=True)
        return found, tuple(name for name, is_short in lacking if is_short)

    def _check_reach(self, bias_K: Tensor, item_filter: ItemFilter) -> None:
        """Raises UserError if the heads that are left retrieve none of the allowed items."""
        reached_I = self.eligible_KI[~torch.isneginf(bias_K)].any(0).numpy()
        if not item_filter.allows(np.flatnonzero(reached_I)).any():
            raise UserError(
                "only, mute: the heads that may answer retrieve none of the items that are "
                "allowed: allow more items, or name other heads"
            )

    def _bits(self, path_K: Tensor) -> np.ndarray:
        """Returns the bits of the items that any of some paths may retrieve."""
        reached_I = self.eligible_KI[path_K].any(0).numpy()
        return bits_of(np.flatnonzero(reached_I), len(self.catalogue))

    def _scores(self, asked: Asked, tile: slice) -> Tensor:
        """Returns the scores of a tile by all heads; -inf if a head may not retrieve an item."""
        score_KT = asked.query_Kd @ self.vector_Id[tile].T
        return score_KT.masked_fill(~self.eligible_KI[:, tile], -torch.inf)

    def _tiles(self) -> list[slice]:
        items = len(self.catalogue)
        return [slice(first, min(first + _TILE, items)) for first in range(0, items, _TILE)]

    def _explained(self, asked: Asked, bias_K: Tensor, found: Found) -> list[Recommendation]:
        """Names the items that were found, and the heads that may retrieve them."""
        rows = found.row_Bk[0][found.row_Bk[0] >= 0]
        score_Kk = asked.query_Kd @ self.vector_Id[rows].T + bias_K[:, None]
        score_Kk = score_Kk.masked_fill(~self.eligible_KI[:, rows], -torch.inf)

        reasons = Reasons(self.tree)
        inside_L = [] if self.labels is None else self.labels.count(asked.rows)
        explained = []
        for place, row in enumerate(rows.tolist()):
            of_paths = score_Kk[:, place].tolist()
            open_paths = torch.nonzero(~torch.isneginf(score_Kk[:, place]))[:, 0].tolist()
            winner = int(found.path_Bk[0, place])
            inside = int(self.member_KI[winner, asked.rows].sum())
            label = None if self.labels is None else self.labels.of_item(row, inside_L)
            facts = Facts("model", len(asked.rows), inside, label=label)
            explained.append(
                Recommendation(
                    self.catalogue.item_id(row),
                    self.catalogue.title(row),
                    float(found.score_Bk[0, place]),
                    self.tree.paths[winner].name,
                    {self.tree.paths[path].name: of_paths[path] for path in open_paths},
                    reasons.of_path(winner, facts),
                    of_paths[winner],
                )
            )
        return explained

    def _score_name(self) -> str:
        """Returns what the scores are. All items are used for calibration."""
        return score_name(
            replace(self.config, normaliser_rows=0),
            heads=len(self.tree.paths),
            score=self.score,
            calibrated=self.config.calibrated,
            joint=self.joint,
        )
