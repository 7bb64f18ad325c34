"""The C++ kernel of the in-group softmax equals the definition, forward and gradient, at widths that it can compute."""

import math

import pytest
import torch
from histories import random_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.ops import in_group_softmax, softmax_blocks
from torchrec_priors.ops.hidden_negatives import SeenItems
from torchrec_priors.ops.in_group_sets import NegativeSets, WeighedPositives
from torchrec_priors.ops.in_group_softmax import in_group_loss, in_group_loss_reference
from torchrec_priors.ops.in_group_softmax_native import has_native_softmax, has_products
from torchrec_priors.ops.products import PIECES, products

IDS = 40
needs_compiler = pytest.mark.skipif(
    not has_native_softmax(
        torch.empty(0, 32), NegativeSets(torch.empty(0, 32), torch.empty(0), [0])
    ),
    reason="no C++ compiler here",
)


def _case(queries, negatives, shared, dim, shifted, seed, scale=0.3, positives=None):
    """(queries, table, pools, positives' ids, queries of positives)."""
    generator = torch.Generator().manual_seed(seed)
    table = scale * torch.randn(IDS, dim, generator=generator)
    ids = [
        torch.randint(0, IDS, (count,), generator=generator).sort().values
        for count in (*negatives, shared)
    ]
    shift = torch.randn(IDS, generator=generator)
    shifts = torch.cat([shift[pool] for pool in ids]) if shifted else None
    number = sum(queries)
    count = 2 * number if positives is None else positives
    query_of = torch.randint(0, max(number, 1), (count if number else 0,), generator=generator)
    positive = torch.randint(0, IDS, query_of.shape, generator=generator)
    query = torch.randn(number, dim, generator=generator)
    return query, table, torch.cat(ids), shifts, positive, query_of.sort().values


def _results(case, queries, negatives, shared, loss, dtype, lengths=()):
    query, table, ids, shifts, positive, query_of = case
    q, vectors = (x.clone().to(dtype).requires_grad_() for x in (query, table))
    shifts = None if shifts is None else shifts.to(dtype)
    pools = NegativeSets(vectors[ids], ids, negatives, shared, shifts)
    weight = torch.linspace(-1, 2, len(positive), dtype=dtype)
    of = WeighedPositives(vectors, positive, positive, query_of, weight)
    hidden = None
    if lengths:
        id_N, offsets, _, position_P, _ = random_histories(lengths, queries, [], IDS, 0)
        hidden = SeenItems(id_N, offsets, pools).hidden(position_P, queries, of)
    total, each = loss(q, queries, of, pools, hidden)
    (3 * total + 0 * (q.sum() + vectors.sum())).backward()
    return [total.detach(), each, q.grad, vectors.grad]


@needs_compiler
@settings(deadline=None, max_examples=20)
@given(
    sets=st.lists(
        st.tuples(st.sampled_from([0, 1, 5, 33, 70]), st.sampled_from([0, 1, 8, 63, 64, 65, 130])),
        min_size=1,
        max_size=3,
    ),
    shared=st.sampled_from([0, 0, 3, 66]),
    dim=st.sampled_from([32, 64, 96]),
    heavy=st.sampled_from([1.0, 256.0]),
    safe=st.sampled_from([0.0, 60.0]),
    shifted=st.booleans(),
    lengths=st.lists(st.integers(1, 20), max_size=3),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["fp32", "bf16x3"]),
)
def test_equals_blocks_of_float64_forward_and_gradient(
    sets, shared, dim, heavy, safe, shifted, lengths, seed, kind
):
    """Those are compared with the definition in `test_in_group_softmax.py`."""
    queries, negatives = [q for q, _ in sets], [n for _, n in sets]
    case = _case(queries, negatives, shared, dim, shifted, seed)
    sizes = (queries, negatives, shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_group_softmax, "HEAVY", heavy)
        patch.setattr(softmax_blocks, "_SAFE", safe)
        with products(kind):
            fast = _results(case, *sizes, in_group_loss, torch.float32, lengths)
        slow = _results(case, *sizes, in_group_loss, torch.float64, lengths)
    for one, other in zip(fast, slow, strict=True):
        scale = 1.0 + float(other.detach().abs().max()) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-5 * scale)


@needs_compiler
def test_equals_the_definition():
    sizes = ([3, 40], [70, 5], 9)
    case = _case(*sizes, 32, shifted=True, seed=1)
    fast = _results(case, *sizes, in_group_loss, torch.float32)
    slow = _results(case, *sizes, in_group_loss_reference, torch.float64)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("kind", PIECES)
def test_tasks_blocks_and_threads_change_no_bit(kind, monkeypatch):
    """More queries than a task and a block have, on one thread and on three, twice."""
    monkeypatch.setattr("torchrec_priors.ops.in_group_softmax_native.ENOUGH", 1)
    sizes = ([1500, 40, 1100], [90, 300, 0], 70)
    case = _case(*sizes, 32, shifted=False, seed=2)
    results = []
    for threads in (1, 3, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with products(kind):
            results.append(_results(case, *sizes, in_group_loss, torch.float32))
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))
    if kind not in ("fp32", "bf16x3"):
        return
    slow = _results(case, *sizes, in_group_loss, torch.float64)
    for one, other in zip(results[0], slow, strict=True):
        scale = 1.0 + float(other.detach().abs().max())
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * scale)


@needs_compiler
@pytest.mark.parametrize("safe", [0.0, 60.0])
def test_more_pieces_are_more_exact(safe, monkeypatch):
    """Typical errors as shares of typical values. Three pieces are as exact as float32."""
    monkeypatch.setattr(softmax_blocks, "_SAFE", safe)
    sizes = ([300, 70], [500, 64], 33)
    case = _case(*sizes, 128, shifted=True, seed=5)
    exact = _results(case, *sizes, in_group_loss, torch.float64)

    errors = {}
    for kind in PIECES:
        if not has_products(kind, 128):
            continue
        with products(kind):
            results = _results(case, *sizes, in_group_loss, torch.float32)
        errors[kind] = [
            float((one - other).norm() / other.norm())
            for one, other in zip(results[1:], exact[1:], strict=True)
        ]

    for kind, of_kind in errors.items():
        for error, fp32 in zip(of_kind, errors["fp32"], strict=True):
            least, most = {
                "fp32": (0, 1e-5),
                "bf16x3": (0, 1.5 * fp32),
                "bf16x2": (fp32, 1e-4),
                "bf16x1": (1e-4, 3e-2),
            }[kind]
            assert least < error < most


@needs_compiler
@pytest.mark.parametrize("kind", ["fp32", "bf16x3"])
@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_large_logits_stay_finite_and_right(scale, kind):
    sizes = ([20], [100], 0)
    case = _case(*sizes, 32, shifted=False, seed=3, scale=scale)
    with products(kind):
        fast = _results(case, *sizes, in_group_loss, torch.float32)
    slow = _results(case, *sizes, in_group_loss, torch.float64)
    for one, other in zip(fast, slow, strict=True):
        assert torch.isfinite(one).all()
        largest = float(other.detach().abs().max())
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4 * largest)


@needs_compiler
@pytest.mark.parametrize("safe", [0.0, 60.0])
@pytest.mark.parametrize("spoilt", ["query", "negative"])
@pytest.mark.parametrize("kind", PIECES)
def test_a_nan_gives_a_nan_where_blocks_give_one(kind, spoilt, safe, monkeypatch):
    monkeypatch.setattr(softmax_blocks, "_SAFE", safe)
    sizes = ([4, 3], [70, 5], 0)
    query, table, ids, shifts, positive, query_of = _case(*sizes, 32, shifted=False, seed=4)
    if spoilt == "query":
        query[2, 5] = math.nan
    else:
        table[int(ids[3]), 7] = math.nan
    case = (query, table, ids, shifts, positive, query_of)
    with products(kind):
        fast = _results(case, *sizes, in_group_loss, torch.float32)
    slow = _results(case, *sizes, in_group_loss, torch.float64)
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert other.isnan().any()


@needs_compiler
def test_other_types_and_widths_are_computed_block_by_block():
    pools = NegativeSets(torch.empty(0, 32), torch.empty(0), [0])
    assert not has_native_softmax(torch.empty(1, 32, dtype=torch.float64), pools)
    assert not has_native_softmax(torch.empty(1, 31), pools)
    many = NegativeSets(torch.empty(0, 32), torch.empty(0), [(1 << 17) + 1])
    assert not has_native_softmax(torch.empty(1, 32), many)
