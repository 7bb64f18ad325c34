"""A trained run as plain files: vectors of all items by their own ids, and weights that one process loads.

items.parquet          item_id (yours), title, vector (what scores are computed with; null where the run has none),
                       item_sets (numbers of the sets that it may be retrieved from); input (vector and side features,
                       what the encoder reads) where the run has side features
weights.safetensors    everything else: encoder, heads, gate, score
config.toml            the run's configuration
trained.parquet        what part of users' histories the weights were trained on, by hashes of original ids
export.json            which run and checkpoint, their ancestors, the heads and their sets, checksums of the other files

Items are in the data set's order. `load_exported` reads it all again.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save
from torch import Tensor

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import remove_leftover, write_json
from torchrec_priors.common.system_errors import cannot
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.training.run.ancestry import IN_PARQUET, as_ancestors, as_text, read_ancestry
from torchrec_priors.training.run.folder import TRAINED

FORMAT = 1
ITEMS = "items.parquet"
WEIGHTS = "weights.safetensors"
CONFIG = "config.toml"
MANIFEST = "export.json"
_ENTRIES = 1 << 24  # numbers of a block of vectors
_APART = ("table.", "features.")  # what is sharded, which the items' vectors stand for


def check_out(out: Path) -> None:
    """Raises UserError where something is there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: '{out}' is there and not empty: name another folder")


def export(
    run: LoadedRun,
    out: Path,
    progress: Callable[[Iterable[int], int], Iterable[int]] = lambda blocks, _: blocks,
) -> dict[str, Any]:
    """Writes a run's files into a folder, which appears when it is whole; returns what `export.json` says.

    Every rank must call it. Rank 0 alone writes, some rows at a time.

    Args:
        progress: wraps the numbers of the blocks of items, told how many there are.

    Raises:
        UserError: the folder is there and not empty.
        OutsideError: it cannot be written.
    """
    check_out(out)
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    about: dict[str, Any] = {}
    run.ranks.where.doing = "export"
    try:
        if run.ranks.leads:
            remove_leftover(partial)
            partial.mkdir(parents=True)
        ancestors = as_ancestors(run.folder, run.checkpoint, read_ancestry(run.folder))
        missing = _write_items(run, partial / ITEMS, progress, as_text(ancestors))
        if run.ranks.leads:
            (partial / WEIGHTS).write_bytes(save(_dense(run), {"format": "pt"}))
            (partial / CONFIG).write_text(run.config.to_toml(), encoding="utf8")
            files = [ITEMS, WEIGHTS, CONFIG]
            if ancestors[0].known:
                shutil.copyfile(run.folder.trained, partial / TRAINED)
                files.append(TRAINED)
            about = _about(run, missing)
            about["ancestors"] = [asdict(ancestor) for ancestor in ancestors]
            about["files"] = {name: sha256(partial / name) for name in files}
            write_json(partial / MANIFEST, about)
            partial.replace(out)
    except OSError as error:
        raise cannot(f"--out: cannot write '{out}'", error) from error
    finally:
        if run.ranks.leads:
            shutil.rmtree(partial, ignore_errors=True)
    return about


def _about(run: LoadedRun, missing: int) -> dict[str, Any]:
    tree = run.model.tree
    return {
        "format": FORMAT,
        "run": str(run.folder.path.absolute()),
        "checkpoint": run.checkpoint,
        "config_sha256": run.config.sha256(),
        "own_files": {str(file): sha256(file) for file in run.config.own_files()},
        "items": run.data.items,
        "items_without_vectors": missing,
        "event_types": len(run.data.manifest.events),
        "heads": run.heads,
        "item_sets": tree.item_set_names,
        "item_set_of_head": list(tree.item_set_K),
        "composition": tree.composition,
        "groups_of_levels": [len(level.groups) for level in tree.levels],  # type: ignore[arg-type]
        "depths": [
            {
                name: value.tolist() if isinstance(value, Tensor) else value
                for name, value in asdict(depth).items()
            }
            for depth in run.depths
        ],
    }


def _dense(run: LoadedRun) -> dict[str, Tensor]:
    state = run.model.state_dict()
    return {
        name: value.detach().cpu().clone()
        for name, value in state.items()
        if not name.startswith(_APART)
    }


def _write_items(
    run: LoadedRun,
    file: Path,
    progress: Callable[[Iterable[int], int], Iterable[int]],
    ancestors: str,
) -> int:
    """Returns how many items have no vector; `ancestors` go with the file, wherever it is copied to."""
    rows = max(1, _ENTRIES // run.config.model.dim)
    dim = run.config.model.dim
    starts = range(0, run.data.items, rows)
    writer: ParquetWriter | None = None
    missing = 0
    try:
        for start in progress(starts, len(starts)):
            table = _block(run, np.arange(start, min(start + rows, run.data.items)), dim)
            if run.ranks.leads:
                missing += table["vector"].null_count
                if writer is None:
                    schema = table.schema.with_metadata({IN_PARQUET: ancestors})
                    writer = ParquetWriter(file, schema)
                writer.write_table(table, row_group_size=len(table))
    finally:
        if writer is not None:
            writer.close()
    return missing


@torch.no_grad()
def _block(run: LoadedRun, item: np.ndarray, dim: int) -> pa.Table:
    """Rows of `items.parquet` on rank 0, for which all ranks look them up."""
    item_rows = run.model.item_rows
    may_I = [
        known for known in (item_rows.has_row_I, item_rows.recommendable_I) if known is not None
    ]
    known = (
        item_rows.has_row_I[item] if item_rows.has_row_I is not None else np.ones(len(item), bool)
    )
    asked = item[known] if run.ranks.leads and known.any() else np.full(1, item_rows.an_item)
    ids, asked_N = run.finder.to_ids(asked, np.array([len(asked)]))
    vector_Nd, _ = run.model.lookup(ids)
    columns = {
        "item_id": run.catalogue.ids.take(item),
        "title": run.catalogue.titles.take(item),
        "vector": _vectors(vector_Nd, known, dim),
        "item_sets": _sets(
            run,
            item,
            np.logical_and.reduce([np.ones(len(item), bool), *(may[item] for may in may_I)]),
        ),
    }
    if run.model.features is not None:
        beside_Nd = run.model.features(asked_N)
        columns["input"] = _vectors(vector_Nd + beside_Nd, known, dim)
    return pa.table(columns)


def _vectors(vector_Nd: Tensor, known: np.ndarray, dim: int) -> pa.Array:
    """Vectors of those items that have one, in their places."""
    whole = np.zeros((len(known), dim), np.float32)
    if known.sum() == len(vector_Nd):
        whole[known] = vector_Nd.cpu().numpy()
    return pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), dim, mask=pa.array(~known))


def _sets(run: LoadedRun, item: np.ndarray, may: np.ndarray) -> pa.Array:
    """For each item the sets that it may be retrieved from."""
    first = int(item[0])
    eligible = run.model.tree.eligible(first, first + len(item))
    place = np.concatenate([rows - first for rows in eligible])
    number = np.repeat(np.arange(len(eligible)), [len(rows) for rows in eligible])
    place, number = place[may[place]], number[may[place]]
    order = np.lexsort((number, place))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(item)))])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(number[order], pa.int32())
    )
