"""Exports a trained run as plain files: a vector for each item, and the other weights.

items.parquet          a row for each item, in the order of the data set:
                       item_id, the original id; title;
                       vector, with which scores are computed (null if the item has none); if the
                       run has content, it is included; if content is mapped, it is the factor of
                       scores, which is not normalised again for cosines;
                       item_sets, the numbers of the item sets that contain it, if it can be
                       recommended;
                       groups, the same for all items (only if some cannot be recommended);
                       labels, the numbers of its labels, for reasons (only if a head says nothing
                       about items, so that reasons name labels);
                       input, the sum of the item's vector and side features, which the encoder
                       reads (only if the run has side features, or content is mapped);
                       alternatives, the numbers c_k(i) of `retrieval/fusion.py`, one for each
                       branch of the tree (only if the fusion of the run divides by them)
weights.safetensors    all other weights: encoder, heads, gate, score
item_llm/              the item LLM, as `save_pretrained` of transformers writes it, and the vector
                       [ITEM] in item.safetensors (only if the run has one that is trained)
config.toml            the configuration of the run
trained.parquet        the parts of users' histories that the model was trained on, by hashes of
                       original ids
queries.onnx, queries.pt2    the encoder and the heads as a graph, if it was asked for (`graph.py`)
export.json            the run, its checkpoint, the runs that it started from, the heads, their item
                       sets and levels, and checksums of the other files

`load_exported` loads the files into a single process.

Shapes: N items that are looked up, M (item, item set) pairs, d width.
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
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.errors import UserError
from torchrec_priors.heads.nodes import Depth
from torchrec_priors.parquet import ParquetWriter
from torchrec_priors.serving.exported_tree import described
from torchrec_priors.serving.item_labels import ItemLabels
from torchrec_priors.serving.reasons import Reasons
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.training.run.ancestry import IN_PARQUET, as_ancestors, as_text, read_ancestry
from torchrec_priors.training.run.folder import TRAINED

FORMAT = 2  # since 2, an export has what levers and fusion need
FORMAT_OF_FACTORS = 3  # the same, but `vector` is the factor of scores
ITEMS = "items.parquet"
WEIGHTS = "weights.safetensors"
CONFIG = "config.toml"
ITEM_LLM = "item_llm"
MANIFEST = "export.json"
_ENTRIES = 1 << 24  # numbers in a block of vectors
_IN_ITEMS = ("table.", "features.", "content.")  # weights that items.parquet contains

Progress = Callable[[Iterable[int], int], Iterable[int]]
Finish = Callable[[Path], dict[str, Any]]


def no_more_files(folder: Path) -> dict[str, Any]:
    """Adds nothing to an export."""
    return {}


def check_out(out: Path) -> None:
    """Raises UserError if `out` exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: '{out}' exists and is not empty: name another folder")


def export(
    run: LoadedRun,
    out: Path,
    progress: Progress = lambda blocks, _: blocks,
    finish: Finish = no_more_files,
) -> dict[str, Any]:
    """Exports a run into a folder.

    Every rank must call it. Only rank 0 writes, a block of items at a time.

    Args:
        run: the loaded run.
        out: the folder. It appears under its name only when it is complete.
        progress: wraps the blocks of items to show progress; its second argument is their number.
        finish: is called on rank 0 with the folder before it appears under its name. It may add
            files, and returns what `export.json` says about them, with a list `files` of their
            names.

    Returns:
        The content of `export.json`; on ranks other than 0 it is empty.

    Raises:
        UserError: the folder exists and is not empty, or the run has a repeat head.
        OutsideError: the folder cannot be written.
    """
    # An export holds item vectors. The repeat head scores the positions of a history.
    if run.model.repeat_head is not None:
        raise UserError(
            "export: this run has a repeat head (repeats.weight), which an export cannot hold: use "
            "`recommend`, or train without it"
        )

    # The folder is written under another name and renamed at the end, so it is always complete.
    check_out(out)
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    about: dict[str, Any] = {}
    labels = None
    if Reasons(run.model.tree).name_labels:
        labels = ItemLabels.of(run.data)
    run.ranks.where.doing = "export"
    try:
        if run.ranks.leads:
            remove_leftover(partial)
            partial.mkdir(parents=True)

        # All ranks take part in looking up the items' vectors.
        ancestors = as_ancestors(run.folder, run.checkpoint, read_ancestry(run.folder))
        missing = _write_items(run, partial / ITEMS, labels, progress, as_text(ancestors))

        if run.ranks.leads:
            (partial / WEIGHTS).write_bytes(save(_dense_weights(run), {"format": "pt"}))
            (partial / CONFIG).write_text(run.config.to_toml(), encoding="utf8")
            files = [ITEMS, WEIGHTS, CONFIG]
            if ancestors[0].known:
                shutil.copyfile(run.folder.trained, partial / TRAINED)
                files.append(TRAINED)
            content = run.model.content
            if content is not None and content.is_trained:
                assert isinstance(content.reader, ItemLLM)
                written = content.reader.save(partial / ITEM_LLM)
                files += [file.relative_to(partial).as_posix() for file in written]

            # export.json is written last, as it contains the checksums of all other files.
            about = _about(run, missing)
            if labels is not None:
                about["labels"] = asdict(labels.words)
            about["ancestors"] = [asdict(ancestor) for ancestor in ancestors]
            about["files"] = {name: sha256(partial / name) for name in files}
            write_json(partial / MANIFEST, about)
            added = finish(partial)
            if added:
                about["files"] |= {name: sha256(partial / name) for name in added.pop("files")}
                about |= added
                write_json(partial / MANIFEST, about)
            partial.replace(out)
    except OSError as error:
        raise cannot(f"--out: cannot write '{out}'", error) from error
    finally:
        if run.ranks.leads:
            shutil.rmtree(partial, ignore_errors=True)
    return about


def _about(run: LoadedRun, missing: int) -> dict[str, Any]:
    """Returns what `load_exported` needs to make the heads without the data set.

    Args:
        run: the loaded run.
        missing: the number of items without a vector.
    """
    tree = run.model.tree
    gate = run.model.gate
    return {
        "format": FORMAT_OF_FACTORS if _is_mapped(run) else FORMAT,
        "run": str(run.folder.path.absolute()),
        "checkpoint": run.checkpoint,
        "config_sha256": run.config.sha256(),
        "own_files": {str(file): sha256(file) for file in run.config.own_files()},
        "items": run.data.items,
        "items_without_vectors": missing,
        "data_set": run.data.manifest.name,
        "event_types": len(run.data.manifest.events),
        "heads": run.heads,
        "item_sets": tree.item_set_names,
        "gated_item_sets": [] if gate is None else gate.gated_S.tolist(),
        **described(tree),
        "depths": [_as_json(depth) for depth in run.depths],
    }


def _as_json(depth: Depth) -> dict[str, Any]:
    """Returns the fields of a depth of the tree, with tensors as lists."""
    fields = {}
    for name, value in asdict(depth).items():
        fields[name] = value.tolist() if isinstance(value, Tensor) else value
    return fields


def _dense_weights(run: LoadedRun) -> dict[str, Tensor]:
    """Returns all weights that are not in the vectors of items."""
    return {
        name: value.detach().cpu().clone()
        for name, value in run.model.state_dict().items()
        if not name.startswith(_IN_ITEMS)
    }


def _write_items(
    run: LoadedRun, file: Path, labels: ItemLabels | None, progress: Progress, ancestors: str
) -> int:
    """Writes all items, and returns the number of items without a vector.

    Args:
        run: the loaded run.
        file: the file.
        labels: the labels of the items, if reasons name them.
        progress: wraps the blocks of items to show progress.
        ancestors: the runs that the run started from. They are written into the schema of the file,
            so that a copy of the file has them, too.
    """
    # All ranks look up a block of vectors at a time, and rank 0 keeps it in memory.
    rows = max(1, _ENTRIES // run.config.model.dim)
    starts = range(0, run.data.items, rows)
    writer: ParquetWriter | None = None
    missing = 0
    try:
        for start in progress(starts, len(starts)):
            item = np.arange(start, min(start + rows, run.data.items))
            table = _block(run, item)
            if labels is not None:
                table = table.append_column("labels", labels.lists(item))
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
def _block(run: LoadedRun, item: np.ndarray) -> pa.Table:
    """Makes some rows of `items.parquet`. Only the result of rank 0 is used.

    Every rank must call it, as looking up vectors is a collective.

    Args:
        run: the loaded run.
        item: the row ids of the items, consecutive.
    """
    item_rows = run.model.item_rows
    has_row = np.ones(len(item), bool)
    if item_rows.has_row_I is not None:
        has_row = item_rows.has_row_I[item]
    may_retrieve = has_row.copy()
    if item_rows.recommendable_I is not None:
        may_retrieve &= item_rows.recommendable_I[item]

    # Only rank 0 needs vectors. The other ranks take part in the lookup with any item.
    looked_up = np.full(1, item_rows.an_item)
    if run.ranks.leads and has_row.any():
        looked_up = item[has_row]
    ids, item_N = run.finder.to_ids(looked_up, np.array([len(looked_up)]))
    vector_Nd = run.model.item_vectors(ids, item_N)
    scored_Nf = vector_Nd
    if _is_mapped(run):
        scored_Nf = run.model.factors(vector_Nd, item_N)

    item_M, number_M = _members(run, item)
    columns = {
        "item_id": run.catalogue.ids.take(item),
        "title": run.catalogue.titles.take(item),
        "vector": _vectors(scored_Nf, has_row),
        "item_sets": _lists_of_sets(item_M, number_M, may_retrieve),
    }
    if item_rows.has_row_I is not None or item_rows.recommendable_I is not None:
        columns["groups"] = _lists_of_sets(item_M, number_M, np.ones(len(item), bool))
    if run.model.features is not None:
        vector_Nd = vector_Nd + run.model.features(item_N)
    if run.model.features is not None or _is_mapped(run):
        columns["input"] = _vectors(vector_Nd, has_row)
    if needs_alternatives(run.config.evaluation):
        count_RI = run.model.tree.alternatives(int(item[0]), int(item[-1]) + 1)
        columns["alternatives"] = pa.FixedSizeListArray.from_arrays(
            pa.array(count_RI.T.ravel()), len(count_RI)
        )
    return pa.table(columns)


def needs_alternatives(config: RetrievalConfig) -> bool:
    """Returns whether the fusion of a run divides by c_k(i)."""
    return config.calibrated and config.fusion in ("mean", "inverse_variance")


def _is_mapped(run: LoadedRun) -> bool:
    """Returns whether scores are computed with factors instead of vectors."""
    return run.finder.index.inputs is not None


def _vectors(vector_Nd: Tensor, has_row: np.ndarray) -> pa.Array:
    """Returns a column of vectors, which is null for items without a row.

    Args:
        vector_Nd: the vectors of the items that have a row.
        has_row: bool, whether an item has a row.
    """
    dim = vector_Nd.shape[1]
    # A null also has values in the file; they are zeros.
    all_vectors = np.zeros((len(has_row), dim), np.float32)
    # On ranks other than 0, `vector_Nd` is the vector of some other item.
    if has_row.sum() == len(vector_Nd):
        all_vectors[has_row] = vector_Nd.cpu().numpy()
    values = pa.array(all_vectors.ravel())
    return pa.FixedSizeListArray.from_arrays(values, dim, mask=pa.array(~has_row))


def _members(run: LoadedRun, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which items are in which item sets, sorted by item set.

    Args:
        run: the loaded run.
        item: the row ids of the items, consecutive.

    Returns:
        (item, number), [M] each: the place of an item in `item`, and the number of an item set that
        contains it.
    """
    first = int(item[0])
    eligible = run.model.tree.eligible(first, first + len(item))
    item_M = np.concatenate([rows - first for rows in eligible])
    number_M = np.repeat(np.arange(len(eligible)), [len(rows) for rows in eligible])
    return item_M, number_M


def _lists_of_sets(item_M: np.ndarray, number_M: np.ndarray, listed: np.ndarray) -> pa.Array:
    """Returns, for each item, the numbers of the item sets that contain it, ascending.

    Args:
        item_M, number_M: what `_members` returns.
        listed: bool, for each item whether its sets are listed. If not, its list is empty.
    """
    kept_M = listed[item_M]
    item_M = item_M[kept_M]
    number_M = number_M[kept_M]

    # So far, the pairs are sorted by item set. The column needs them sorted by item.
    order = np.lexsort((number_M, item_M))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(item_M, minlength=len(listed)))])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(number_M[order], pa.int32())
    )
