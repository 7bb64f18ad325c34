"""In-group softmaxes of all item sets by Triton kernels, with losses and gradients.

Queries are sorted by item set, and so are negatives. Three kernels compute all sets, so the number
of launches does not depend on the number of sets, and the host reads no sizes:

    _positives   a program has a block of positives: their scores, and their copies among the
                 negatives, found by binary search
    _queries     a program has a block of queries, possibly of several sets: it sums over their
                 negatives, computes the losses of their positives, and goes through the negatives
                 again for the gradients of the queries
    _negatives   a program has a block of negatives: it goes through the queries of their sets for
                 the gradients of the negatives

Nothing of size [queries, negatives] is kept: logits are computed three times. `in_group_softmax.py`
has the equations. As there, the sum over a query's negatives is computed once, and the terms of a
positive's copies are subtracted, unless they are heavy: then the sum is computed again without
them. Factors of products have the type of the inputs, and sums are in float32.

Shapes: P queries, M positives sorted by query, X item vectors, n negatives of which the last ones
are shared by all queries, S item sets, d width.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels have no annotations: Triton reads the types of the arguments at each call.

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrec_priors.ops.hidden_negatives import Hidden
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.residual_adapters_triton import precision

COLUMNS = 64  # negatives of a block

_LOWEST = tl.constexpr(-3.4028234663852886e38)
_LARGEST = tl.constexpr(3.4028234663852886e38)
_HEAVY = tl.constexpr(256.0)  # as in `softmax_blocks.py`


@triton.jit
def _lower_bound(values, wanted, low, high, steps):
    """Returns the first index in [low, high) with values[index] >= wanted; `high` if there is none.

    `values` is ascending in the range. `low` and `high` have the shape of `wanted`.
    """
    for _ in range(steps):
        middle = (low + high) // 2
        searching = low < high
        value = tl.load(values + middle, mask=searching, other=0)
        goes_up = searching & (value < wanted)
        high = tl.where(searching & (value >= wanted), middle, high)
        low = tl.where(goes_up, middle + 1, low)
    return low


@triton.jit
def _vectors(base, index, exists, width, WIDTH: tl.constexpr):
    """Loads vectors, [len(index), WIDTH]; zeros where none exists and beyond the width."""
    column = tl.arange(0, WIDTH)
    return tl.load(
        base + index.to(tl.int64)[:, None] * width + column[None, :],
        mask=exists[:, None] & (column < width)[None, :],
        other=0.0,
    )


@triton.jit
def _positives(
    query, item, ids, shifts, source, own_id, query_of, set_of_query, first_negative, own_hidden,
    score, copies,
    positives, in_sets, negatives, width, steps,
    SHIFTED: tl.constexpr, SHARED: tl.constexpr, HIDES: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes the scores and copies (`own_copies`) of a block of positives."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = place < positives
    own_query = tl.load(query_of + place, mask=exists, other=0)
    own_source = tl.load(source + place, mask=exists, other=0)
    wanted = tl.load(own_id + place, mask=exists, other=0)

    queries = _vectors(query, own_query, exists, width, WIDTH).to(tl.float32)
    items = _vectors(item, own_source, exists, width, WIDTH).to(tl.float32)
    tl.store(score + place, tl.sum(queries * items, 1), mask=exists)

    # Copies in the set of the query, and then among the shared negatives.
    number = tl.load(set_of_query + own_query, mask=exists, other=0)
    low = tl.load(first_negative + number, mask=exists, other=0)
    high = tl.load(first_negative + number + 1, mask=exists, other=0)
    first = _lower_bound(ids, wanted, low, high, steps)
    found = (_lower_bound(ids, wanted + 1, first, high, steps) - first).to(tl.float32)
    if SHIFTED:
        found *= tl.exp(tl.load(shifts + first, mask=found > 0, other=0.0))
    if SHARED:
        low = tl.zeros_like(first) + in_sets
        high = tl.zeros_like(first) + negatives
        first = _lower_bound(ids, wanted, low, high, steps)
        more = (_lower_bound(ids, wanted + 1, first, high, steps) - first).to(tl.float32)
        if SHIFTED:
            more *= tl.exp(tl.load(shifts + first, mask=more > 0, other=0.0))
        found += more
    if HIDES:
        # A hidden negative is not in the sum of its query.
        hidden = tl.load(own_hidden + place, mask=exists, other=0)
        found = tl.where(hidden != 0, 0.0, found)
    tl.store(copies + place, found, mask=exists)


@triton.jit
def _without_hidden(logits, column, row, queries_, hidden, first_hidden, count_hidden):
    """Returns the logits with -inf where a negative is hidden from a query.

    `first_hidden` and `count_hidden` are the range of `hidden` of each query.
    """
    exists = row < queries_
    first = tl.load(first_hidden + row, mask=exists, other=0)
    count = tl.load(count_hidden + row, mask=exists, other=0)
    for index in range(tl.max(count)):
        negative = tl.load(hidden + first + index, mask=index < count, other=-1)
        logits = tl.where(column[None, :] == negative[:, None], float("-inf"), logits)
    return logits


@triton.jit
def _logits(
    queries, vectors, shifts, column, end, in_set, width,
    row, queries_, hidden, first_hidden, count_hidden,
    SHIFTED: tl.constexpr, HIDES: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns the vectors of a block of negatives, and the logits, [queries, negatives].

    The logits are -inf where a query is not in the set of the negatives, or they are hidden.
    """
    exists = column < end
    keys = _vectors(vectors, column, exists, width, WIDTH)
    logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    if SHIFTED:
        logits += tl.load(shifts + column, mask=exists, other=0.0)[None, :]
    if HIDES:
        logits = _without_hidden(logits, column, row, queries_, hidden, first_hidden, count_hidden)
    return keys, tl.where(in_set[:, None] & exists[None, :], logits, float("-inf"))


@triton.jit
def _range_of(part, first_set, sets, first_negative, in_sets, negatives):
    """Returns set, first and last negative of a part: one of the sets, or the shared negatives."""
    shared = part == sets
    number = tl.minimum(first_set + part, first_set + sets - 1)
    begin = tl.where(shared, in_sets, tl.load(first_negative + number))
    end = tl.where(shared, negatives, tl.load(first_negative + number + 1))
    return number, shared, begin, end


@triton.jit
def _sum_of(
    queries, vectors, ids, shifts, set_of_row, exists, without, first_set, parts, sets,
    first_negative, in_sets, negatives, width, row, queries_, hidden, first_hidden, count_hidden,
    top, total,
    SHIFTED: tl.constexpr, HIDES: tl.constexpr, WITHOUT: tl.constexpr,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns the largest logit of each query, and the sum of e^{logit - largest}.

    With WITHOUT, negatives with the id in `without` are left out.
    """
    for part in range(parts):
        number, shared, begin, end = _range_of(
            part, first_set, sets, first_negative, in_sets, negatives
        )
        in_set = exists & (shared | (set_of_row == number))
        for start in range(begin, end, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            # The ranges for shared negatives follow those for the sets.
            at = tl.where(shared, queries_, 0)
            _, logits = _logits(
                queries, vectors, shifts, column, end, in_set, width,
                row, queries_, hidden, first_hidden + at, count_hidden + at,
                SHIFTED, HIDES, WIDTH, PRECISION,
            )  # fmt: skip
            if WITHOUT:
                column_id = tl.load(ids + column, mask=column < end, other=-1)
                logits = tl.where(column_id[None, :] == without[:, None], float("-inf"), logits)
            larger = tl.maximum(top, tl.max(logits, 1))
            total = total * tl.exp(top - larger) + tl.sum(tl.exp(logits - larger[:, None]), 1)
            top = larger
    return top, total


@triton.jit
def _loss(score, copies, top, total):
    """Returns a positive's loss, its derivative by the score, and that by the sum over negatives.

    The sum is total * e^top; the last derivative is in units of e^-top. All are 0 if the positive
    has no negatives other than its copies.
    """
    own = tl.minimum(tl.exp(score - top), _LARGEST)
    others = total - copies * own
    has_others = (others <= 0.0) == 0  # a NaN counts as true, so that it propagates
    by_sum = tl.where(has_others, 1.0 / (others + own), 0.0)

    log_sum = tl.log(total) + top
    larger = tl.maximum(score, log_sum)
    own = tl.exp(score - larger)
    others = tl.maximum(tl.exp(log_sum - larger) - copies * own, 0.0)
    loss = tl.where(has_others, larger + tl.log(others + own) - score, 0.0)
    by_score = tl.where(has_others, own * (1.0 - copies) / (others + own) - 1.0, 0.0)
    return loss, by_score, by_sum


@triton.jit
def _of_heavy(
    by_logit, logits, column_id, row, exists, first_positive, most, own_id, heavy_top, heavy_by
):
    """Adds the derivatives of heavy positives by the logits of a block, except by their copies."""
    for index in range(most):
        place = tl.load(first_positive + row, mask=exists, other=0) + index
        end = tl.load(first_positive + row + 1, mask=exists, other=0)
        is_own = exists & (place < end)
        by = tl.load(heavy_by + place, mask=is_own, other=0.0)
        top = tl.load(heavy_top + place, mask=is_own, other=0.0)
        own = tl.load(own_id + place, mask=is_own, other=-1)
        exp = tl.exp(tl.where((by != 0.0)[:, None], logits - top[:, None], float("-inf")))
        by_logit += tl.where(column_id[None, :] == own[:, None], 0.0, exp * by[:, None])
    return by_logit


@triton.jit
def _queries(
    query, item, vectors, ids, shifts, set_of_query, first_negative, first_positive,
    hidden, first_hidden, count_hidden, source, own_id, weight, score, copies,
    loss, by_score, heavy_top, heavy_by, grad_query, tops, by_sums, heavies,
    queries_, in_sets, negatives, width,
    SHIFTED: tl.constexpr, SHARED: tl.constexpr, HIDES: tl.constexpr, GRADS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes what belongs to a block of queries.

    These are the losses of its positives and their derivatives by the scores (`by_score`, times the
    weight), its gradients, and what `_negatives` needs: the largest logit of each query (`tops`),
    the derivative of the loss by the sum of its e^{logit - top} (`by_sums`), and how many of its
    positives to look at if any of them is heavy (`heavies`).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = row < queries_
    set_of_row = tl.load(set_of_query + row, mask=exists, other=-1)
    first_set = tl.load(set_of_query + tl.program_id(0) * ROWS)
    last_row = tl.minimum(tl.program_id(0) * ROWS + ROWS, queries_) - 1
    sets = tl.load(set_of_query + last_row) - first_set + 1
    parts = sets + 1 if SHARED else sets
    queries = _vectors(query, row, exists, width, WIDTH)

    top = tl.zeros([ROWS], tl.float32) + _LOWEST
    total = tl.zeros([ROWS], tl.float32)
    nothing = tl.zeros([ROWS], tl.int64)
    top, total = _sum_of(
        queries, vectors, ids, shifts, set_of_row, exists, nothing, first_set, parts, sets,
        first_negative, in_sets, negatives, width,
        row, queries_, hidden, first_hidden, count_hidden, top, total,
        SHIFTED, HIDES, False, COLUMNS, WIDTH, PRECISION,
    )  # fmt: skip

    # The positives of each query, one after another.
    first = tl.load(first_positive + row, mask=exists, other=0)
    end = tl.load(first_positive + row + 1, mask=exists, other=0)
    most = tl.max(end - first)
    by_sum = tl.zeros([ROWS], tl.float32)
    heavy = tl.zeros([ROWS], tl.int32)
    for index in range(most):
        place = first + index
        is_own = place < end
        own_score = tl.load(score + place, mask=is_own, other=0.0)
        own_copies = tl.load(copies + place, mask=is_own, other=0.0)
        own_weight = tl.load(weight + place, mask=is_own, other=0.0)
        is_heavy = is_own & (own_copies > _HEAVY)
        own_loss, own_by, own_by_sum = _loss(own_score, own_copies, top, total)
        by_sum += tl.where(is_own & (is_heavy == 0), own_weight * own_by_sum, 0.0)

        if tl.max(is_heavy.to(tl.int32)) > 0:
            own = tl.load(own_id + place, mask=is_own, other=-1)
            top_without = tl.zeros([ROWS], tl.float32) + _LOWEST
            total_without = tl.zeros([ROWS], tl.float32)
            top_without, total_without = _sum_of(
                queries, vectors, ids, shifts, set_of_row, exists, own, first_set, parts, sets,
                first_negative, in_sets, negatives, width,
                row, queries_, hidden, first_hidden, count_hidden, top_without, total_without,
                SHIFTED, HIDES, True, COLUMNS, WIDTH, PRECISION,
            )  # fmt: skip
            no_copies = tl.zeros([ROWS], tl.float32)
            heavy_loss, heavy_by_score, heavy_by_sum = _loss(
                own_score, no_copies, top_without, total_without
            )
            own_loss = tl.where(is_heavy, heavy_loss, own_loss)
            own_by = tl.where(is_heavy, heavy_by_score, own_by)
            heavy = tl.where(is_heavy, (end - first).to(tl.int32), heavy)
            tl.store(heavy_top + place, top_without, mask=is_heavy)
            tl.store(heavy_by + place, own_weight * heavy_by_sum, mask=is_heavy)
        tl.store(heavy_by + place, tl.zeros([ROWS], tl.float32), mask=is_own & (is_heavy == 0))
        tl.store(loss + place, own_loss, mask=is_own)
        tl.store(by_score + place, own_weight * own_by, mask=is_own)

    if GRADS:
        tl.store(tops + row, top, mask=exists)
        tl.store(by_sums + row, by_sum, mask=exists)
        tl.store(heavies + row, heavy, mask=exists)
        tl.debug_barrier()  # `_of_heavy` reads what was stored above

        most_heavy = tl.max(heavy)
        grads = tl.zeros([ROWS, WIDTH], tl.float32)
        for part in range(parts):
            number, shared, begin, stop = _range_of(
                part, first_set, sets, first_negative, in_sets, negatives
            )
            in_set = exists & (shared | (set_of_row == number))
            for start in range(begin, stop, COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                at = tl.where(shared, queries_, 0)
                keys, logits = _logits(
                    queries, vectors, shifts, column, stop, in_set, width,
                    row, queries_, hidden, first_hidden + at, count_hidden + at,
                    SHIFTED, HIDES, WIDTH, PRECISION,
                )  # fmt: skip
                by_logit = tl.exp(logits - top[:, None]) * by_sum[:, None]
                if most_heavy > 0:
                    column_id = tl.load(ids + column, mask=column < stop, other=-1)
                    by_logit = _of_heavy(
                        by_logit, logits, column_id, row, exists,
                        first_positive, most_heavy, own_id, heavy_top, heavy_by,
                    )  # fmt: skip
                grads = tl.dot(by_logit.to(keys.dtype), keys, grads, input_precision=PRECISION)

        # Through the scores of the positives.
        for index in range(most):
            place = first + index
            is_own = place < end
            by = tl.load(by_score + place, mask=is_own, other=0.0)
            own_source = tl.load(source + place, mask=is_own, other=0)
            items = _vectors(item, own_source, is_own, width, WIDTH)
            grads += by[:, None] * items.to(tl.float32)

        columns = tl.arange(0, WIDTH)
        tl.store(
            grad_query + row.to(tl.int64)[:, None] * width + columns[None, :],
            grads.to(grad_query.dtype.element_ty),
            mask=exists[:, None] & (columns < width)[None, :],
        )


@triton.jit
def _negatives(
    query, vectors, ids, shifts, first_negative, first_query, first_positive,
    hidden, first_hidden, count_hidden, own_id, heavy_top, heavy_by, tops, by_sums, heavies,
    grad_vectors,
    queries_, in_sets, negatives, width, sets, blocks_in_sets,
    SHIFTED: tl.constexpr, HIDES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of a block of negatives, which may be of several sets."""
    shared = tl.program_id(0) >= blocks_in_sets
    block = tl.where(shared, tl.program_id(0) - blocks_in_sets, tl.program_id(0))
    first_column = tl.where(shared, in_sets, 0) + block * COLUMNS
    stop = tl.where(shared, negatives, in_sets)
    column = first_column + tl.arange(0, COLUMNS)
    keys = _vectors(vectors, column, column < stop, width, WIDTH)
    column_id = tl.load(ids + column, mask=column < stop, other=-1)
    shift = tl.zeros([COLUMNS], tl.float32)
    if SHIFTED:
        shift = tl.load(shifts + column, mask=column < stop, other=0.0)
    grads = tl.zeros([COLUMNS, WIDTH], tl.float32)

    # The shared negatives are a single part, with all queries.
    parts = tl.where(shared, 1, sets)
    for number in range(parts):
        begin_column = tl.where(shared, in_sets, tl.load(first_negative + number))
        end_column = tl.where(shared, negatives, tl.load(first_negative + number + 1))
        if (begin_column < first_column + COLUMNS) & (end_column > first_column):
            in_set = (column >= begin_column) & (column < end_column)
            begin = tl.where(shared, 0, tl.load(first_query + number))
            end = tl.where(shared, queries_, tl.load(first_query + number + 1))
            for start in range(begin, end, ROWS):
                row = start + tl.arange(0, ROWS)
                exists = row < end
                queries = _vectors(query, row, exists, width, WIDTH)
                top = tl.load(tops + row, mask=exists, other=0.0)
                by_sum = tl.load(by_sums + row, mask=exists, other=0.0)
                heavy = tl.load(heavies + row, mask=exists, other=0)

                logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) + shift[None, :]
                if HIDES:
                    at = tl.where(shared, queries_, 0)
                    logits = _without_hidden(
                        logits, column, row, queries_, hidden, first_hidden + at, count_hidden + at
                    )
                logits = tl.where(exists[:, None] & in_set[None, :], logits, float("-inf"))
                by_logit = tl.exp(logits - top[:, None]) * by_sum[:, None]
                most_heavy = tl.max(heavy)
                if most_heavy > 0:
                    by_logit = _of_heavy(
                        by_logit, logits, column_id, row, exists,
                        first_positive, most_heavy, own_id, heavy_top, heavy_by,
                    )  # fmt: skip
                grads = tl.dot(
                    tl.trans(by_logit.to(queries.dtype)), queries, grads, input_precision=PRECISION
                )

    columns = tl.arange(0, WIDTH)
    tl.store(
        grad_vectors + column.to(tl.int64)[:, None] * width + columns[None, :],
        grads.to(grad_vectors.dtype.element_ty),
        mask=(column < stop)[:, None] & (columns < width)[None, :],
    )


def block_rows(width: int) -> int:
    """Returns the number of queries of a block: wide vectors leave fewer registers."""
    return 64 if width <= 64 else 32


def launch(width: int) -> dict[str, int]:
    """Returns the options with which the kernels for vectors of this padded width are compiled."""
    return {"num_warps": 4 if width <= 64 else 8, "num_stages": 1 if width > 64 else 2}


def in_group_softmax(
    query_Pd: Tensor,
    set_P: Tensor,
    first_query_S1: Tensor,
    first_positive_P1: Tensor,
    positives: WeighedPositives,
    negatives: NegativeSets,
    hidden: Hidden | None,
    with_grads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes losses and gradients; see `SOFTMAX` in `in_group_softmax.py`."""
    queries, width = query_Pd.shape
    assert negatives.first_S1 is not None
    first_S1 = negatives.first_S1
    in_sets = len(negatives.ids_n) - negatives.shared
    item_Xd = positives.item_Xd.contiguous()
    vectors_nd = negatives.vectors_nd.contiguous()
    query_Pd = query_Pd.contiguous()
    shifts_n = vectors_nd if negatives.shifts_n is None else negatives.shifts_n
    weight_M = positives.weight_M.contiguous()
    padded = max(16, triton.next_power_of_2(width))
    rows = block_rows(padded)
    tile = {
        "SHIFTED": negatives.shifts_n is not None,
        "HIDES": hidden is not None,
        "WIDTH": padded,
        "ROWS": rows,
    }
    # Kernels need a pointer for every argument; what they do not read is any tensor.
    ranges = (set_P, set_P, set_P)
    own_hidden_M = set_P
    if hidden is not None:
        ranges = (hidden.negative_H, hidden.first_RP, hidden.count_RP)
        own_hidden_M = hidden.own_M.view(torch.int8)
    products = {"COLUMNS": COLUMNS, "PRECISION": precision(), **launch(padded)}

    scores_6M = query_Pd.new_empty(6, len(positives), dtype=torch.float32)
    score_M, copies_M, loss_M, by_score_M, heavy_top_M, heavy_by_M = scores_6M
    tops_P, by_sums_P = query_Pd.new_empty(2, queries, dtype=torch.float32)
    heavies_P = query_Pd.new_empty(queries, dtype=torch.int32)
    grad_Pd = torch.empty_like(query_Pd if with_grads else query_Pd[:0])
    grad_nd = torch.empty_like(vectors_nd if with_grads else vectors_nd[:0])
    grad_Xd = torch.zeros_like(item_Xd if with_grads else item_Xd[:0])

    if queries:
        _positives[(triton.cdiv(len(positives), rows),)](
            query_Pd, item_Xd, negatives.ids_n, shifts_n,
            positives.source_M, positives.id_M, positives.query_M, set_P, first_S1, own_hidden_M,
            score_M, copies_M,
            len(positives), in_sets, len(negatives.ids_n), width,
            max(1, len(negatives.ids_n)).bit_length(),
            SHARED=negatives.shared > 0, **tile,
        )  # fmt: skip
        _queries[(triton.cdiv(queries, rows),)](
            query_Pd, item_Xd, vectors_nd, negatives.ids_n, shifts_n, set_P, first_S1,
            first_positive_P1, *ranges, positives.source_M, positives.id_M, weight_M,
            score_M, copies_M, loss_M, by_score_M, heavy_top_M, heavy_by_M,
            grad_Pd, tops_P, by_sums_P, heavies_P,
            queries, in_sets, len(negatives.ids_n), width,
            SHARED=negatives.shared > 0, GRADS=with_grads, **tile, **products,
        )  # fmt: skip
    if not with_grads:
        return loss_M, grad_Pd, grad_Xd, grad_nd

    blocks_in_sets = triton.cdiv(in_sets, COLUMNS)
    blocks = blocks_in_sets + triton.cdiv(negatives.shared, COLUMNS)
    if blocks:
        _negatives[(blocks,)](
            query_Pd, vectors_nd, negatives.ids_n, shifts_n, first_S1, first_query_S1,
            first_positive_P1, *ranges, positives.id_M, heavy_top_M, heavy_by_M, tops_P, by_sums_P,
            heavies_P, grad_nd,
            queries, in_sets, len(negatives.ids_n), width, len(first_S1) - 1, blocks_in_sets,
            **tile, **products,
        )  # fmt: skip

    query_Md = query_Pd.index_select(0, positives.query_M)
    grad_Xd.index_add_(0, positives.source_M, query_Md.mul_(by_score_M[:, None]))
    return loss_M, grad_Pd, grad_Xd, grad_nd
