"""Looks up the vectors that a training step needs: those of items, negatives and side features.

An extended sequence consists of the items of one window: a context, and the items that follow the
context.

Shapes: N items of the contexts, X items of the extended sequences, n negatives, W ranks, d width.
"""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.dedup import LookupIds, StepIds, in_table, once
from torchrec_priors.embedding.features import FeatureTables
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.ops.in_group_sets import NegativeSets
from torchrec_priors.ranks.exchange import Exchange

Table: TypeAlias = EmbeddingCollection | ManagedCollisionEmbeddingCollection


def requested(ids: KeyedJaggedTensor, asks_once: bool, rows: int | None = None) -> LookupIds:
    """Returns the ids to look up.

    Args:
        ids: ids with a single key.
        asks_once: whether an id that occurs several times is looked up only once.
        rows: the number of rows of the table, if some ids have none; None if all have one.
    """
    if rows is None:
        return once(ids) if asks_once else (ids, {})

    held, places = in_table(ids, rows)
    if not asks_once:
        return held, places
    distinct, among = once(held)
    (key,) = ids.keys()
    # The last place is that of ids without a row.
    return distinct, {key: F.pad(among[key], (0, 1), value=-1)[places[key]]}


def vectors_and_rows(
    table: Table, request: LookupIds, asked: KeyedJaggedTensor
) -> tuple[Tensor, Tensor]:
    """Looks up the ids that `requested` returned, which must have a single key.

    Args:
        table: the table.
        request: what `requested` returned.
        asked: the original ids.

    Returns:
        The vector of each original id, [ids, d], which is zero if it has no row; and its row in
        the table, [ids].
    """
    ids, places = request
    (key,) = ids.keys()
    answer = table(ids)

    if isinstance(answer, tuple):  # a managed table, which also returns the rows it read
        vectors, rows = (part[key].values() for part in answer)
        if places:
            return vectors[places[key]], rows[places[key]]
        return vectors, rows

    vectors = answer[key].values()
    if places:
        # The place -1 is that of the zeros.
        vectors = F.pad(vectors, (0, 0, 0, 1))[places[key]]
    return vectors, asked.values()


def ids_of_step(
    batch: Batch, features: FeatureTables | None, asks_once: bool, rows: int | None = None
) -> StepIds:
    """Returns the ids that `look_up_step` looks up.

    Args:
        batch: the batch of this rank.
        features: tables of side features; None if there are none.
        asks_once, rows: see `requested`.
    """
    ids_of_features = None
    if features is not None:
        context_N = torch.cat([part.context_N for part in batch.parts])
        ids_of_features = features.ids_of(batch.item_X[context_N])
    return StepIds(requested(batch.ids, asks_once, rows), ids_of_features)


def look_up_step(
    batch: Batch,
    ids: StepIds,
    table: Table,
    features: FeatureTables | None,
    exchange: Exchange,
) -> LookedUp:
    """Looks up all vectors of a step. Every rank must call it.

    Args:
        batch: the batch of this rank.
        ids: the result of `ids_of_step`.
        table: the item table.
        features: tables of side features; None if there are none.
        exchange: the functions by which ranks exchange negatives.
    """
    vectors, rows = vectors_and_rows(table, ids.items, batch.ids)

    # In `vectors` and `rows`, this rank's negatives follow the items of the extended sequences.
    items = len(vectors) - len(batch.draw.own_ids)
    slots_W = batch.slots.slots_W
    ids_n = exchange.gather(rows[items:], slots_W)

    shifts_n = None
    if batch.slots.own_shifts is not None:
        shifts_n = exchange.gather(batch.slots.own_shifts, slots_W)

    # The gradients of the parts accumulate in detached leaves. `LookedUp.backward` then passes each
    # table its complete gradient, once.
    roots = [vectors[:items], exchange.gather(vectors[items:], slots_W)]
    if features is not None:
        assert ids.features is not None
        roots.append(features.vectors_of(ids.features))
    leaves = [root.detach().requires_grad_() for root in roots]

    # The negatives of all ranks, in the order of the slots (see `Draw`).
    negatives = NegativeSets(
        vectors_nd=leaves[1],
        ids_n=ids_n,
        counts_S=batch.draw.counts_S,
        shared=batch.draw.shared,
        shifts_n=shifts_n,
        first_S1=batch.slots.first_S1,
    )
    return LookedUp(
        item_X=batch.item_X,
        row_X=rows[:items],
        event_X=batch.event_X,
        vector_Xd=leaves[0],
        beside_Nd=leaves[2] if features is not None else None,
        negatives=negatives,
        roots=roots,
        step=batch.step,
    )
