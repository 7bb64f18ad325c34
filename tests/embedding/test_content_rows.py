"""Items with rows, with content, with both or with neither: which row they have, and which vector."""

import numpy as np
import pytest
import torch

from torchrec_priors.embedding import mapped_items
from torchrec_priors.embedding.content import ItemContent
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.embedding.mapped_items import MappedItems
from torchrec_priors.errors import UserError
from torchrec_priors.settings.embedding import UnseenConfig

ITEMS = 200
DIM = 4
SEEN_I = np.arange(ITEMS - 50) % 3 > 0
DESCRIBED = np.flatnonzero(np.arange(ITEMS) % 5 > 0)


def _rows(ids=True):
    config = UnseenConfig(unseen="content", content="text", ids=ids)
    described_I = np.zeros(ITEMS, bool)
    described_I[DESCRIBED] = True
    return ItemRows.of(config, SEEN_I, ITEMS, described_I)


def _content(rows, **options):
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).normal(size=(len(DESCRIBED), 7)).astype(np.float32)
    settings = {"std": 0.5, "id_dropout": 0.4, "seed": 3} | options
    content = ItemContent(DESCRIBED, vectors, rows, DIM, torch.device("cpu"), **settings)
    return content, vectors


def test_items_have_a_row_or_content_or_are_left_out():
    rows = _rows()
    seen_I = np.append(SEEN_I, np.zeros(50, bool))
    described_I = np.isin(np.arange(ITEMS), DESCRIBED)
    assert rows.rows == seen_I.sum()
    assert rows.content_rows == (described_I & ~seen_I).sum()
    assert (rows.has_row_I == (seen_I | described_I)).all()
    assert (rows.recommendable_I == rows.has_row_I).all()
    assert (rows.own_row_I == seen_I).all()
    assert (rows.row_I[seen_I] < rows.rows).all()
    assert (rows.row_I[described_I & ~seen_I] >= rows.rows).all()
    used = rows.row_I[rows.has_row_I]
    assert sorted(used) == list(range(rows.rows + rows.content_rows)), "no two items share a row"
    assert (rows.item_of_row[used] == np.flatnonzero(rows.has_row_I)).all()


def test_without_ids_no_item_has_a_row():
    rows = _rows(ids=False)
    assert not rows.own_row_I.any()
    assert (rows.rows, rows.content_rows) == (1, len(DESCRIBED))
    with pytest.raises(UserError, match="no item has a row or content"):
        ItemRows.of(UnseenConfig(unseen="content", content="x", ids=False), SEEN_I, ITEMS)


def test_a_vector_is_the_row_and_the_projection():
    rows = _rows()
    content, vectors = _content(rows)
    item_N = torch.tensor([5, 0, 199, 7, 7])
    id_Nd = torch.randn(5, DIM)
    found = content(id_Nd, item_N)

    for number, item in enumerate(item_N.tolist()):
        expected = id_Nd[number]
        if item in DESCRIBED:
            vector = vectors[list(DESCRIBED).index(item)]
            unit = torch.from_numpy(vector / np.linalg.norm(vector))
            expected = expected + content.projection.weight @ unit + content.projection.bias
        torch.testing.assert_close(found[number], expected)

    row_N = torch.from_numpy(rows.row_I[item_N.numpy()])
    has = row_N >= 0
    assert torch.equal(content.items_of(row_N[has]), item_N[has])


def test_rows_are_dropped_by_item_and_step_and_never_without_content():
    content, _ = _content(_rows())
    item_N = torch.arange(ITEMS)
    id_Nd = torch.full((ITEMS, DIM), 100.0)
    whole = content(id_Nd, item_N)

    masks = []
    for step in range(20):
        found = content(id_Nd, item_N, step)
        dropped = (whole - found)[:, 0] > 50
        torch.testing.assert_close(found[dropped] + 100, whole[dropped])
        assert torch.equal(found[~dropped], whole[~dropped])
        assert set(np.flatnonzero(dropped)) <= set(DESCRIBED)

        # It is the same at any place in a batch, but for the last bits of the projection: libraries may
        # compute the last rows of a product in another way.
        order = torch.randperm(ITEMS)
        elsewhere = content(id_Nd, item_N[order], step)
        torch.testing.assert_close(elsewhere, found[order])
        assert torch.equal((whole[order] - elsewhere)[:, 0] > 50, dropped[order])
        masks.append(dropped)

    share = torch.stack(masks)[:, DESCRIBED].float().mean()
    assert 0.36 < share < 0.44
    assert any(not torch.equal(masks[0], mask) for mask in masks[1:])


def _table(rows):
    """Returns rows of a table, and the row of every item; zeros for items without one."""
    table = torch.randn(rows.rows, DIM)
    id_of = torch.zeros(ITEMS, DIM)
    id_of[torch.from_numpy(rows.own_row_I)] = table[rows.row_I[rows.own_row_I]]
    return table, id_of


def _found_on(content, table, ranks, total):
    """Yields what each of some ranks finds."""
    rows = content.rows.rows
    for rank in range(ranks):
        first, last = (rows * number // ranks for number in (rank, rank + 1))
        block = Shard(table[first:last], first)
        yield content.candidates(block, rank, ranks, torch.nn.functional.normalize, total)


def test_candidates_of_all_ranks_are_all_items_with_vectors():
    rows = _rows()
    content, _ = _content(rows)
    table, id_of = _table(rows)
    expected = content(id_of, torch.arange(ITEMS)).detach()

    for ranks in (1, 3):
        items = []
        for found in _found_on(content, table, ranks, lambda tensor: tensor):
            held = found.held
            assert (np.diff(held.item_C) > 0).all()
            torch.testing.assert_close(found.vectors.rows[held.row_C], expected[held.item_C])
            assert found.factors is None
            items += held.item_C.tolist()
        assert sorted(items) == np.flatnonzero(rows.has_row_I).tolist()


def _mapped(rows):
    frequency_I = np.arange(ITEMS) % 23
    return MappedItems(DESCRIBED, rows, frequency_I, torch.device("cpu"))


def test_items_without_rows_have_mapped_factors():
    rows = _rows()
    content, vectors = _content(rows, mapped=_mapped(rows))
    table, id_of = _table(rows)
    vector_Id = content(id_of, torch.arange(ITEMS)).detach()
    factor_Id = torch.nn.functional.normalize(vector_Id)
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors))
    has_row = rows.own_row_I[DESCRIBED]

    (alone,) = _found_on(content, table, 1, lambda tensor: tensor)
    expected = factor_Id.clone()
    expected[DESCRIBED[~has_row]] = content.mapped.map(unit[~has_row])
    change = expected - factor_Id
    assert change[DESCRIBED[~has_row]].norm(dim=1).min() > 0.05
    torch.testing.assert_close(alone.factors.rows, expected[alone.held.item_C])
    torch.testing.assert_close(alone.vectors.rows, vector_Id[alone.held.item_C])

    # The same for factors that are looked up; items without a row and content stay as they are.
    found = content.with_mapped(factor_Id, torch.arange(ITEMS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_map_reads_a_sample_and_holds_out_a_fifth(monkeypatch):
    rows = _rows()
    content, _ = _content(rows, mapped=_mapped(rows))
    table, _ = _table(rows)
    counts = {}

    def count(tensor):
        # In sums of products, that of the column of ones with itself is the number of items.
        if tensor.ndim == 3:
            column = tensor.shape[1] - DIM - 2
            counts["fitted"], counts["held out"] = tensor[:, column, column].tolist()
        return tensor

    with_both = int(rows.own_row_I[DESCRIBED].sum())
    list(_found_on(content, table, 1, count))
    assert counts == {"fitted": with_both - with_both // 5, "held out": with_both // 5}

    monkeypatch.setattr(mapped_items, "MOST_FITTED", 20)
    content.mapped = _mapped(rows)
    list(_found_on(content, table, 1, count))
    assert counts == {"fitted": 16, "held out": 4}


def _few_rows():
    """Items of which seven have a row and content, too few to fit a map."""
    seen_I = np.zeros(ITEMS, bool)
    seen_I[DESCRIBED[:7]] = True
    described_I = np.isin(np.arange(ITEMS), DESCRIBED)
    config = UnseenConfig(unseen="content", content="text")
    return ItemRows.of(config, seen_I, ITEMS, described_I)


@pytest.mark.parametrize("rows", [ItemRows(ITEMS, ITEMS), _few_rows()], ids=["all", "seven"])
def test_nothing_is_mapped_if_all_items_have_rows_or_too_few(rows):
    content, _ = _content(rows, mapped=_mapped(rows))
    (found,) = _found_on(content, torch.randn(rows.rows, DIM), 1, lambda tensor: tensor)
    assert found.factors is None
    assert content.mapped.map is None
    factor_Id = torch.randn(ITEMS, DIM)
    assert content.with_mapped(factor_Id, torch.arange(ITEMS)) is factor_Id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unseen": "content"}, "names no content"),
        ({"id_dropout": 0.5}, "names no content"),
        (
            {"content": "text", "unseen": "hashed", "min_frequency": 2, "hashed_rows": 5},
            "share a row",
        ),
        ({"content": "text", "unseen": "managed", "rows": 48}, "share a row"),
        ({"content": "text", "ids": False}, "set embedding.unseen = 'content'"),
        ({"content": "text", "ids": False, "unseen": "content", "id_dropout": 0.1}, "no effect"),
        ({"map_content": True}, "names no content"),
        ({"content": "text", "map_content": True}, "needs embedding.unseen = 'content'"),
        ({"content": "text", "ids": False, "unseen": "content", "map_content": True}, "ids = true"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        UnseenConfig(**settings).check()
