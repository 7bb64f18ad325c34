"""Users to be evaluated: each once, cut as the split says, in the same batches on any number of ranks."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_movielens import read_sequences

from torchrec_priors.data.histories import Histories, history_batches
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.share import Share

HORIZON = 8


@pytest.fixture(scope="module")
def data(small_data):
    return PreparedData(small_data)


@pytest.fixture(scope="module")
def films(data):
    """Original film of each row."""
    return data.catalogue(["item_id"])["item_id"].to_pylist()


def _cut(flat, lengths) -> list[list[int]]:
    assert len(flat) == sum(lengths)
    entries = iter(flat.tolist())
    return [[next(entries) for _ in range(length)] for length in lengths]


def _users(batch: Histories) -> list[tuple[int, list[int], list[int], list[int]]]:
    """(user, recent items, all items seen, targets) of each user of a batch."""
    parts = (
        _cut(batch.items, batch.lengths),
        _cut(batch.seen, batch.seen_lengths),
        _cut(batch.targets, batch.target_lengths),
    )
    assert len(batch) == len(batch.user_ids)
    return list(zip(batch.user_ids.to_pylist(), *parts, strict=True))


def _batches(data, split="test", *, context=10, batch=16, share=Share()) -> list[list]:
    return [
        _users(users)
        for users in history_batches(data, split, context=context, batch=batch, share=share)
    ]


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["validation", "test", None]), st.integers(1, 70), st.integers(1, 100))
def test_every_user_once_with_the_interactions_of_the_split(
    data, films, small_raw, split, context, batch
):
    """Test: the last E are targets, all before are seen. Validation: the same without the last E. None: all seen."""
    expected = []
    for user, ratings in read_sequences(small_raw, HORIZON).items():
        known = [rating.film for rating in ratings]
        known = known[:-HORIZON] if split == "validation" else known
        seen, targets = (known[:-HORIZON], known[-HORIZON:]) if split else (known, [])
        expected.append((user, seen[-context:], seen, targets))
    found = [
        (user, *([films[row] for row in rows] for rows in lists))
        for users in _batches(data, split, context=context, batch=batch)
        for user, *lists in users
    ]
    assert found == expected


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["validation", "test"]), st.integers(1, 90), st.integers(1, 7))
def test_batches_are_the_same_on_any_number_of_ranks(data, split, batch, world):
    """Batch i is rank i mod world's; all ranks have the same number of batches, the last of some empty."""
    alone = _batches(data, split, batch=batch)
    ranks = [_batches(data, split, batch=batch, share=Share(rank, world)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {-(-len(alone) // world)}
    together = [users for turn in zip(*ranks, strict=True) for users in turn]
    assert together[: len(alone)] == alone
    assert together[len(alone) :] == [[]] * (len(together) - len(alone))
    assert {len(users) for users in alone[:-1]} <= {batch}


@settings(deadline=None, max_examples=20)
@given(st.sets(st.integers(0, 74), min_size=1), st.integers(1, 90), st.integers(1, 4))
def test_chosen_users_alone_in_the_order_of_the_data(data, chosen, batch, world):
    everyone = [user for users in _batches(data, None) for user in users]
    mask = np.isin(np.arange(data.users), list(chosen))
    ranks = [
        [
            _users(users)
            for users in history_batches(
                data, None, context=10, batch=batch, share=share, chosen=mask
            )
        ]
        for share in (Share(rank, world) for rank in range(world))
    ]
    found = [user for turn in zip(*ranks, strict=True) for users in turn for user in users]
    assert found == [everyone[number] for number in sorted(chosen)]


def test_an_empty_batch_keeps_its_types(data):
    share = Share(1, 2)
    (empty,) = history_batches(data, "test", context=10, batch=data.users, share=share)
    (whole,) = history_batches(data, "test", context=10, batch=data.users)
    assert len(empty) == 0
    assert empty.user_ids.type == whole.user_ids.type == pa.int64()
    for name in ("items", "lengths", "seen", "seen_lengths", "targets", "target_lengths"):
        assert getattr(empty, name).dtype == getattr(whole, name).dtype == "int64"
        assert len(getattr(empty, name)) == 0


def test_one_user_is_found_by_the_original_id_with_the_whole_history(data, films, small_raw):
    for user, ratings in read_sequences(small_raw, HORIZON).items():
        assert [films[row] for row in data.find_user(str(user)).items] == [
            rating.film for rating in ratings
        ]
    for absent in ("0", "1", "-6", "06", "anybody"):  # user 1 is one that is dropped
        with pytest.raises(UserError, match=f"user: data set 'movielens' has no user '{absent}'"):
            data.find_user(absent)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(["validation", "test"]), st.integers(1, 40), st.integers(1, 90))
def test_times_and_events_stand_beside_the_items_of_the_context(
    data, small_raw, split, context, batch
):
    found = {}
    for users in history_batches(
        data, split, context=context, batch=batch, columns=["timestamps", "events"]
    ):
        times, events = (
            _cut(users.columns[name], users.lengths) for name in ("timestamps", "events")
        )
        found |= dict(zip(users.user_ids.to_pylist(), zip(times, events, strict=True), strict=True))
    assert found
    for user, ratings in read_sequences(small_raw, HORIZON).items():
        seen = ratings[: -2 * HORIZON if split == "validation" else -HORIZON][-context:]
        assert found[user] == (
            [1000 * rating.seconds for rating in seen],
            [rating.stars - 1 for rating in seen],
        )


@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from(["validation", "test"]), st.integers(1, 90), st.integers(1, 4), st.booleans()
)
def test_events_stand_beside_the_targets_where_they_are_asked_for(
    data, small_raw, split, batch, world, both
):
    """Whether or not they are asked for beside the history, too; an empty batch has none."""
    expected = {}
    for user, ratings in read_sequences(small_raw, HORIZON).items():
        known = ratings[:-HORIZON] if split == "validation" else ratings
        expected[user] = [rating.stars - 1 for rating in known[-HORIZON:]]
    found, columns = {}, ["events"] if both else []
    for share in (Share(rank, world) for rank in range(world)):
        for users in history_batches(
            data,
            split,
            context=5,
            batch=batch,
            share=share,
            columns=columns,
            target_columns=["events"],
        ):
            assert list(users.columns) == columns
            events = _cut(users.target_columns["events"], users.target_lengths)
            found |= dict(zip(users.user_ids.to_pylist(), events, strict=True))
    assert found == expected
