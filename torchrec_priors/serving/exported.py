"""Loads an exported run into one process; neither a process group nor the data set is needed.

    from torchrec_priors.serving.exported import load_exported

    exported = load_exported("export")
    for found in exported.recommend([50, 172, 181], k=5):
        print(found.title, found.head)
    scores = exported.scores([50, 172, 181])  # [heads, items]

Shapes: I items, K heads, S item sets, R branches, N items of a history, d width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from torchrec_priors.baselines.ask import ask_last, score_of
from torchrec_priors.baselines.baseline import load_baseline
from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import read_json
from torchrec_priors.common.own_code import check_trusted
from torchrec_priors.common.plugin import own_file
from torchrec_priors.encoder.encoder import Encoder, Jagged, load_encoder
from torchrec_priors.errors import UserError, shown
from torchrec_priors.heads.certainty import Certainty
from torchrec_priors.heads.composition import make_heads
from torchrec_priors.heads.gate import Gate
from torchrec_priors.heads.nodes import Depth
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.heads.score import Score
from torchrec_priors.parquet import read_table
from torchrec_priors.prepared.id_texts import id_texts, plain_array
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.item_filter import EVERYTHING
from torchrec_priors.serving.catalogue import Catalogue, ItemId, ItemList, texts
from torchrec_priors.serving.export import (
    CONFIG,
    FORMAT,
    FORMAT_OF_FACTORS,
    ITEMS,
    MANIFEST,
    WEIGHTS,
)
from torchrec_priors.serving.exported_search import Asked, ExportedSearch
from torchrec_priors.serving.exported_tree import ExportedTree
from torchrec_priors.serving.item_labels import ItemLabels
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.padded_model import PaddedModel
from torchrec_priors.serving.reasons import LevelWords
from torchrec_priors.serving.request import Answer
from torchrec_priors.serving.user_context import Skipped
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.config_file import read_config


def load_exported(folder: Path | str, *, trust: bool = False) -> "Exported":
    """Loads a folder that `torchrec-priors export` wrote.

    Args:
        folder: the folder.
        trust: whether to execute the custom code that the run was trained with, even if this user
            has not trained with this code on this machine.

    Raises:
        UserError: the folder has no export, the export was changed after it was written, or its
            custom code is not trusted.
    """
    path = Path(folder)
    about = _read_manifest(path)
    config = read_config(path / CONFIG, signed=False)

    # This is checked before any code of the run is imported.
    recorded = about.get("own_files", {})
    if not isinstance(recorded, dict):
        recorded = {}
    check_trusted(_custom_code(config), recorded, path, trust=trust, made="exported")

    try:
        weights = load_file(path / WEIGHTS)
        items = read_table(path / ITEMS)
    except (SafetensorError, pa.ArrowException) as error:
        # The checksums were right, so the files were written like this.
        reason = " ".join(str(error).split())
        raise UserError(
            f"'{path}' holds no export that can be read ({reason}): export the run again"
        ) from error
    return Exported.of(config, about, weights, items)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Reads `export.json`, and compares the checksums of all files with it."""
    if not (path / MANIFEST).exists():
        raise UserError(f"'{path}' holds no export (no {MANIFEST}): export the run first")

    about: dict[str, Any] = read_json(path / MANIFEST, remedy="export the run again")
    if about.get("format") not in (FORMAT, FORMAT_OF_FACTORS):
        raise UserError(
            f"'{path}' is of format {about.get('format')}, not {FORMAT} or {FORMAT_OF_FACTORS}: "
            "export the run again with this version"
        )
    files = about.get("files")
    if not isinstance(files, dict) or not files.keys() >= {ITEMS, WEIGHTS, CONFIG}:
        raise UserError(
            f"'{path / MANIFEST}' does not name the files of an export: export the run again"
        )
    for name, checksum in files.items():
        if not (path / name).is_file() or sha256(path / name) != checksum:
            raise UserError(
                f"'{path / name}' is missing or not as it was written: export the run again"
            )
    return about


@dataclass(frozen=True)
class Exported:
    """An exported model in memory.

    Attributes:
        config: the configuration of the run.
        heads: the names of the K paths.
        item_ids: the original ids of the items, in the order of the data set.
        vector_Id: the vectors that scores are computed with; zeros if an item has no vector.
        input_Id: the vectors that the encoder reads.
        has_row_I: bool, whether an item has a vector.
        eligible_KI: bool, whether a head may retrieve an item.
    """

    config: RunConfig
    heads: list[str]
    item_ids: pa.Array
    vector_Id: Tensor
    input_Id: Tensor
    has_row_I: Tensor
    eligible_KI: Tensor
    _encoder: Encoder
    _heads: PriorHeads
    _baseline: nn.Module | None
    _score: Score
    _gate: Gate | None
    _search: ExportedSearch

    @classmethod
    def of(
        cls, config: RunConfig, about: dict[str, Any], weights: dict[str, Tensor], items: pa.Table
    ) -> "Exported":
        """Makes the model from the content of an export's files.

        Args:
            config: the configuration of the run.
            about: the content of `export.json`.
            weights: the content of `weights.safetensors`.
            items: the content of `items.parquet`.
        """
        dim = config.model.dim
        encoder = load_encoder(config.encoder, dim, config.model.context, about["event_types"])
        tree = ExportedTree.of(about)
        heads = make_heads(cast(PriorTree, tree), dim, config.priors, _depths(about))
        baseline = load_baseline(config.baseline, dim, config.model.context)
        score = score_of(baseline, config.model.score)
        model = nn.ModuleDict({"encoder": cast(nn.Module, encoder), "heads": heads, "score": score})
        if baseline is not None:
            model["baseline"] = baseline
        joint = config.loss.softmax == "joint"
        gate = None
        if config.loss.gate:
            gate = Gate(dim, torch.tensor(about["gated_item_sets"], dtype=torch.bool))
            model["gate"] = gate
        certainty = None
        if any(name.startswith("certainty.") for name in weights):
            certainty = Certainty(len(tree.paths))
            model["certainty"] = certainty

        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not missing, f"an export lacks {missing}"
        assert not unexpected, f"an export has no place for {unexpected}"
        model.eval()

        vector_Id, has_row_I = _matrix(items["vector"])
        input_Id = vector_Id
        if "input" in items.column_names:
            input_Id, _ = _matrix(items["input"])
        factor_If = vector_Id
        if about["format"] != FORMAT_OF_FACTORS:
            factor_If = score.items(vector_Id)

        eligible_KI = _eligible(items["item_sets"], about)
        member_KI = eligible_KI
        if "groups" in items.column_names:
            member_KI = _eligible(items["groups"], about)
        ids = items["item_id"].combine_chunks()
        catalogue = Catalogue(
            about["data_set"],
            ids,
            plain_array(items["title"]),
            id_texts(ids, "items of the export"),
        )
        search = ExportedSearch(
            config=config.evaluation,
            score=score.kind,
            joint=joint,
            hides_seen=not config.negatives.seen,
            tree=tree,
            catalogue=catalogue,
            vector_Id=factor_If,
            eligible_KI=eligible_KI,
            member_KI=member_KI,
            log_alternatives_RI=_log_alternatives(items, tree),
            variance_K=None if certainty is None else certainty.variance(),
            labels=_labels(about, items),
        )
        return cls(
            config=config,
            heads=about["heads"],
            item_ids=ids,
            vector_Id=vector_Id,
            input_Id=input_Id,
            has_row_I=has_row_I,
            eligible_KI=eligible_KI,
            _encoder=encoder,
            _heads=heads,
            _baseline=baseline,
            _score=score,
            _gate=gate,
            _search=search,
        )

    @torch.no_grad()
    def recommend(
        self,
        history: Sequence[ItemId],
        k: int = 10,
        *,
        levers: Levers | None = None,
        allow: Iterable[ItemId] | ItemList | None = None,
        deny: Iterable[ItemId] | ItemList | None = None,
    ) -> Answer:
        """Recommends items as the run does, except for rounding.

        Times, events and the groups of the user are unknown, so the heads of all groups of users
        are used.

        Args:
            history: original item ids, oldest first.
            k: the number of items. Fewer are returned only if fewer may be recommended.
            levers: how heads are used.
            allow: original ids of the only items that may be recommended.
            deny: original ids of items that must not be recommended.

        Returns:
            The items, best first. Items of the lists that the export lacks are counted in
            `skipped`.

        Raises:
            UserError: the history has an unknown item, or no item with a vector; a head is unknown;
                no item or head is left; k is out of range; or the run diversifies its lists.
        """
        catalogue = self._search.catalogue
        allowed = None if allow is None else catalogue.item_list(allow)
        denied = None if deny is None else catalogue.item_list(deny)
        item_filter = catalogue.filter_of(allowed, denied) or EVERYTHING
        skipped = Skipped(
            allow=0 if allowed is None else allowed.unknown,
            deny=0 if denied is None else denied.unknown,
        )

        rows = self._rows(history)
        states = self._states(rows)
        log_group_K = torch.zeros(len(self.heads))
        if self._gate is not None:
            last_Bd = states.vector_Nd[-1:]
            log_group_BS = self._gate.log_probability(last_Bd)
            if self._search.joint:
                log_group_BS = self._gate(last_Bd)
            log_group_K = log_group_BS[0, self._search.tree.item_set_K]
        asked = Asked(self._asked(states), log_group_K, rows)
        return self._search.answer(asked, k, levers or Levers(), item_filter, skipped)

    @torch.no_grad()
    def queries(self, history: Sequence[ItemId]) -> Tensor:
        """Computes each head's query for a history: [K, d].

        Args:
            history: original item ids, oldest first. Times and events are unknown.

        Raises:
            UserError: the history has an unknown item, or no item with a vector.
        """
        return self._asked(self._states(self._rows(history)))

    @torch.no_grad()
    def scores(self, history: Sequence[ItemId]) -> Tensor:
        """Computes each head's score for each item (Eq. 1): [K, I].

        The score is -inf if the head may not retrieve the item.

        Args:
            history: original item ids, oldest first.

        Raises:
            UserError: the history has an unknown item, or no item with a vector.
        """
        score_KI: Tensor = self.queries(history) @ self._search.vector_Id.T
        return score_KI.masked_fill(~self.eligible_KI, -torch.inf)

    def padded(self) -> PaddedModel:
        """Returns the encoder and the heads as a module that reads padded histories.

        Raises:
            UserError: the run has a baseline model, or an encoder that the module cannot compute.
        """
        if self._baseline is not None:
            raise UserError(
                f"--format: this run has a baseline model ({self.config.baseline.name}), which "
                "cannot be exported as a graph: leave out --format"
            )
        return PaddedModel(cast(nn.Module, self._encoder), self._heads, self._score).eval()

    def _rows(self, history: Sequence[ItemId]) -> np.ndarray:
        """Returns the row ids of a history. See `queries`."""
        row_N = self._search.catalogue.find(texts(history))
        if (row_N < 0).any():
            raise UserError(
                f"the history: the export has no item {shown(history[int(np.argmin(row_N))])}"
            )
        return row_N

    def _states(self, rows: np.ndarray) -> Jagged:
        """Returns the encoder's states of a history. See `queries`."""
        # As when a run recommends, items without a row are left out first. The context has the last
        # items that remain.
        item_N = torch.from_numpy(rows)
        item_N = item_N[self.has_row_I[item_N]][-self.config.model.context :]
        if not len(item_N):
            raise UserError("the history: none of its items has a vector")
        jagged = Jagged(self.input_Id[item_N], torch.tensor([0, len(item_N)]))
        return replace(jagged, vector_Nd=self._encoder(jagged))

    def _asked(self, states: Jagged) -> Tensor:
        """Returns each head's query at the end of a history."""
        raw_BKd = ask_last(self._heads, self._baseline, states, len(self.heads))
        return self._score.queries(raw_BKd)[0]


def _custom_code(config: RunConfig) -> list[Path]:
    """Returns the files of custom code that the exported model needs.

    The code of priors is not needed, as heads and item sets are in the export.
    """
    files = map(own_file, (config.encoder.backbone, config.baseline.name))
    return [file for file in files if file is not None]


def _depths(about: dict[str, Any]) -> list[Depth]:
    """Makes the depths of the tree from the content of `export.json`."""
    tensors = ("node_K", "parent_n", "parent_group_n")
    return [
        Depth(depth["names"], *(torch.tensor(depth[name]) for name in tensors))
        for depth in about["depths"]
    ]


def _labels(about: dict[str, Any], items: pa.Table) -> ItemLabels | None:
    """Returns the labels of the items; None if reasons name none.

    Exports of earlier releases have none, either.
    """
    if "labels" not in about:
        return None
    words = LevelWords(**about["labels"])
    return ItemLabels.of_lists(words, items["labels"].combine_chunks())


def _matrix(column: pa.ChunkedArray) -> tuple[Tensor, Tensor]:
    """Converts a column of vectors to a tensor.

    Returns:
        [I, d], with zeros for null; and bool [I], whether the vector is not null.
    """
    array = column.combine_chunks()
    dim = array.type.list_size
    has_row_I = torch.from_numpy(array.is_valid().to_numpy(zero_copy_only=False))
    values_Id = torch.zeros(len(array), dim)
    values_Id[has_row_I] = torch.from_numpy(array.flatten().to_numpy().copy()).view(-1, dim)
    return values_Id, has_row_I


def _eligible(item_sets: pa.ChunkedArray, about: dict[str, Any]) -> Tensor:
    """Returns bool [K, I]: whether an item is in the item set of a head."""
    sets = item_sets.combine_chunks()
    set_of_entry = torch.tensor(sets.flatten().to_numpy())
    item_of_entry = torch.from_numpy(_owners(sets))
    eligible_SI = torch.zeros(len(about["item_sets"]), len(sets), dtype=torch.bool)
    eligible_SI[set_of_entry, item_of_entry] = True
    return eligible_SI[torch.tensor(about["item_set_of_head"])]


def _log_alternatives(items: pa.Table, tree: ExportedTree) -> Tensor:
    """Returns log c_k(i): [R, I]; zeros if the fusion does not need it."""
    if "alternatives" not in items.column_names:
        return torch.zeros(int(tree.branch_K.max()) + 1, 1).expand(-1, len(items))
    column = items["alternatives"].combine_chunks()
    count_IR = column.flatten().to_numpy().reshape(len(items), column.type.list_size)
    # A branch without a path for an item has the number 0. It is not used.
    return torch.from_numpy(np.log(np.maximum(count_IR.T, 1)))


def _owners(lists: pa.Array) -> np.ndarray:
    """Returns the number of the list that each entry is in."""
    owners: np.ndarray = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
    return owners
