"""Stores the data of users with short histories, which a later append may make long enough.

`held/interactions.parquet` has all interactions of these users, including repeated ones. Its column
`place` gives the order in the raw files. `held/items.parquet` has the items that are not in the
catalogue because no kept user has seen them. `held/labels/<prior>.parquet` has the labels of these
items and users.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from torchrec_priors.preparation.build import expressions
from torchrec_priors.preparation.build.output_files import OutputFiles
from torchrec_priors.preparation.build.split import Split
from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.prepared.manifest import HELD

INTERACTIONS = f"{HELD}interactions.parquet"
ITEMS = f"{HELD}items.parquet"
# The number of rows in a batch.
_ROWS = 1 << 17
_PLACE = "place"


def labels_path(prior: str) -> str:
    return f"{HELD}labels/{prior}.parquet"


def interactions_of(
    engine: Engine, logs: Sequence[ir.Table], buckets: Sequence[ir.Table], split: Split
) -> Iterator[pa.RecordBatch]:
    """Yields the interactions of users that the split does not keep.

    They are in order of user id, and within a user in the order of the raw files.

    Args:
        logs: the interactions of each bucket, as in `Bucketed`.
        buckets: the histories of each bucket, as in `Bucketed`.
    """
    for log, bucket in zip(logs, buckets, strict=True):
        users = expressions.kept(bucket, split).filter(lambda t: t.position == 0).select("user_id")
        left_out = log.anti_join(users, "user_id")
        # Rows with equal `order` are sorted by all other columns, so every engine gives the same
        # order.
        by = ["user_id", "order", *(name for name in _columns(log) if name != "user_id")]
        yield from engine.batches(left_out.order_by(by).select(_columns(log)), _ROWS)


def write_held(
    output: OutputFiles, corpus: Corpus, ids: ir.Table, batches: Iterable[pa.RecordBatch]
) -> None:
    """Writes all files of users with short histories.

    Args:
        output: the files of the data set.
        corpus: the corpus, from which items and labels are taken.
        ids: a table with the `item_id` of all items in the catalogue of the data set.
        batches: the interactions to keep.
    """
    log = expressions.log(corpus)
    schema = log.select(_columns(log)).schema().to_pyarrow().append(pa.field(_PLACE, pa.int64()))
    output.write_batches(INTERACTIONS, schema, _numbered(batches))

    # The batches have been consumed, so the file that was just written is read.
    held = output.engine.table("held_now", [output.folder / INTERACTIONS])
    priors = [
        (labels, "user_id", held.select("user_id").distinct()) for labels in corpus.user_priors
    ]
    # If `items_met` is not set, all items are in the catalogue, and their labels in the priors.
    if corpus.items_met:
        items = corpus.items.anti_join(ids, "item_id").semi_join(held, "item_id")
        items = output.engine.materialise("held_items", items)
        output.write(ITEMS, items.order_by("item_id"))
        priors += [(labels, "item_id", items) for labels in corpus.item_priors]

    for labels, entity, entities in priors:
        pairs = expressions.labelled(labels, entity).semi_join(entities, entity)
        output.write(labels_path(labels.name), pairs.order_by([entity, "label"]))


def read_held(held: ir.Table, first: int) -> ir.Table:
    """Returns the stored interactions as a log, with `order` counted from `first`."""
    names = [name for name in held.columns if name != _PLACE]
    return held.select(*names, order=held[_PLACE] + ibis.literal(first, "int64"))


def with_held(labels: Labels, entity: str, held: ir.Table) -> Labels:
    """Returns the labels. For entities that are in `held`, the labels in `held` replace them."""
    # Labels from earlier raw files take precedence, as for users and items in the data set.
    new = expressions.labelled(labels, entity).anti_join(held, entity)
    return Labels(labels.name, new.union(held.select(entity, "label")), labels.remainder)


def _columns(log: ir.Table) -> list[str]:
    return [name for name in ("user_id", "item_id", "timestamp", "event") if name in log.columns]


def _numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the batches with a new column `place`, which replaces an existing one."""
    first = 0
    for batch in batches:
        columns: dict[str, Any] = {
            name: batch[name] for name in batch.schema.names if name != _PLACE
        }
        place = pa.array(np.arange(first, first + len(batch)))
        yield pa.record_batch({**columns, _PLACE: place})
        first += len(batch)
