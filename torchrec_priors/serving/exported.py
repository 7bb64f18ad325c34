"""Loads an exported run into one process; neither a process group nor the data set is needed.

    from torchrec_priors.serving.exported import load_exported

    exported = load_exported("export")
    scores = exported.scores([50, 172, 181])  # [heads, items]

Shapes: I items, K heads, S item sets, N items of a history, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
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
from torchrec_priors.config import RunConfig
from torchrec_priors.encoder.encoder import Encoder, Jagged, load_encoder
from torchrec_priors.errors import UserError, shown
from torchrec_priors.heads.composition import make_heads
from torchrec_priors.heads.gate import Gate
from torchrec_priors.heads.nodes import Depth
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.heads.score import Score
from torchrec_priors.parquet import read_table
from torchrec_priors.prepared.id_files import places
from torchrec_priors.prepared.id_texts import id_texts
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.serving.catalogue import ItemId, texts
from torchrec_priors.serving.export import CONFIG, FORMAT, ITEMS, MANIFEST, WEIGHTS
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
    if about.get("format") != FORMAT:
        raise UserError(
            f"'{path}' is of format {about.get('format')}, not {FORMAT}: export the run again"
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
    _texts: pa.Array
    _encoder: Encoder
    _heads: PriorHeads
    _baseline: nn.Module | None
    _score: Score

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
        heads = make_heads(_tree(about), dim, config.priors, _depths(about))
        baseline = load_baseline(config.baseline, dim, config.model.context)
        score = score_of(baseline, config.model.score)
        model = nn.ModuleDict({"encoder": cast(nn.Module, encoder), "heads": heads, "score": score})
        if baseline is not None:
            model["baseline"] = baseline
        # The gate is made because the export has its weights, but scores are not calibrated here.
        if config.loss.gate:
            model["gate"] = Gate(dim, torch.zeros(len(about["item_sets"]), dtype=torch.bool))

        # The weights of `certainty` are not needed, as they are for fusion, which is not done here.
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not missing, f"an export lacks {missing}"
        assert all(name.startswith("certainty.") for name in unexpected), (
            f"an export has no place for {unexpected}"
        )
        model.eval()

        vector_Id, has_row_I = _matrix(items["vector"], dim)
        input_Id = vector_Id
        if "input" in items.column_names:
            input_Id, _ = _matrix(items["input"], dim)

        sets = items["item_sets"].combine_chunks()
        set_of_entry = torch.tensor(sets.flatten().to_numpy())
        item_of_entry = torch.from_numpy(_owners(sets))
        eligible_SI = torch.zeros(len(about["item_sets"]), len(items), dtype=torch.bool)
        eligible_SI[set_of_entry, item_of_entry] = True

        ids = items["item_id"].combine_chunks()
        return cls(
            config=config,
            heads=about["heads"],
            item_ids=ids,
            vector_Id=vector_Id,
            input_Id=input_Id,
            has_row_I=has_row_I,
            eligible_KI=eligible_SI[torch.tensor(about["item_set_of_head"])],
            _texts=id_texts(ids, "items of the export"),
            _encoder=encoder,
            _heads=heads,
            _baseline=baseline,
            _score=score,
        )

    @torch.no_grad()
    def queries(self, history: Sequence[ItemId]) -> Tensor:
        """Computes each head's query for a history: [K, d].

        Args:
            history: original item ids, oldest first. Times and events are unknown.

        Raises:
            UserError: the history has an unknown item, or no item with a vector.
        """
        item = places(texts(history), self._texts)
        if (item < 0).any():
            raise UserError(
                f"the history: the export has no item {shown(history[int(np.argmin(item))])}"
            )
        # As when a run recommends, items without a row are left out first. The context has the last
        # items that remain.
        item_N = torch.from_numpy(item)
        item_N = item_N[self.has_row_I[item_N]][-self.config.model.context :]
        if not len(item_N):
            raise UserError("the history: none of its items has a vector")

        jagged = Jagged(self.input_Id[item_N], torch.tensor([0, len(item_N)]))
        states = replace(jagged, vector_Nd=self._encoder(jagged))
        raw_BKd = ask_last(self._heads, self._baseline, states, len(self.heads))
        return self._score.queries(raw_BKd)[0]

    @torch.no_grad()
    def scores(self, history: Sequence[ItemId]) -> Tensor:
        """Computes each head's score for each item (Eq. 1): [K, I].

        The score is -inf if the head may not retrieve the item.

        Args:
            history: original item ids, oldest first.

        Raises:
            UserError: the history has an unknown item, or no item with a vector.
        """
        items_Id = self._score.items(self.vector_Id)
        score_KI: Tensor = self.queries(history) @ items_Id.T
        return score_KI.masked_fill(~self.eligible_KI, -torch.inf)


def _custom_code(config: RunConfig) -> list[Path]:
    """Returns the files of custom code that the exported model needs.

    The code of priors is not needed, as heads and item sets are in the export.
    """
    files = map(own_file, (config.encoder.backbone, config.baseline.name))
    return [file for file in files if file is not None]


def _tree(about: dict[str, Any]) -> PriorTree:
    """Returns an object that replaces the prior tree when heads are made.

    Heads need only the numbers of paths and groups, and the composition.
    """
    groups = [range(groups) for groups in about["groups_of_levels"]]
    tree = SimpleNamespace(
        paths=about["heads"], group_names=groups, composition=about["composition"]
    )
    return cast(PriorTree, tree)


def _depths(about: dict[str, Any]) -> list[Depth]:
    """Makes the depths of the tree from the content of `export.json`."""
    tensors = ("node_K", "parent_n", "parent_group_n")
    return [
        Depth(depth["names"], *(torch.tensor(depth[name]) for name in tensors))
        for depth in about["depths"]
    ]


def _matrix(column: pa.ChunkedArray, dim: int) -> tuple[Tensor, Tensor]:
    """Converts a column of vectors to a tensor.

    Returns:
        [I, d], with zeros for null; and bool [I], whether the vector is not null.
    """
    array = column.combine_chunks()
    has_row_I = torch.from_numpy(array.is_valid().to_numpy(zero_copy_only=False))
    values_Id = torch.zeros(len(array), dim)
    values_Id[has_row_I] = torch.from_numpy(array.flatten().to_numpy().copy()).view(-1, dim)
    return values_Id, has_row_I


def _owners(lists: pa.Array) -> np.ndarray:
    """Returns the number of the list that each entry is in."""
    owners: np.ndarray = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
    return owners
