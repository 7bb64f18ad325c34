"""The made-up marketplace: what its log promises, and how it is generated, read and prepared."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.synthetic.catalogue import Catalogue
from torchrec_priors.synthetic.files import generate
from torchrec_priors.synthetic.histories import EVENTS, LENGTHS, SHARES, make_histories

ROWS = 120_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A generated log; tests must not change it."""
    folder = tmp_path_factory.mktemp("marketplace") / "raw"
    generate(folder, ROWS, 3)
    return folder


@pytest.fixture(scope="module")
def log(raw):
    """Columns of the log, as lists."""
    return pq.read_table(raw / "log.parquet").to_pydict()


@pytest.fixture
def tiny(tmp_path):
    """A small log of a test's own, to change."""
    generate(tmp_path / "raw", 2_000, 0)
    return tmp_path / "raw"


def test_events_have_the_published_shares(log):
    assert len(log["event"]) == ROWS
    for event, share in zip(EVENTS, SHARES, strict=True):
        found = log["event"].count(event) / ROWS
        # Every history begins with a view and ends before a purchase can be completed: 1 row in 80 or so.
        assert abs(found - share) <= 4 * (share / ROWS) ** 0.5 + share / 80, event


def test_what_is_no_view_follows_a_view_and_a_completion_follows_its_start(log):
    viewed, begun, before = set(), None, None
    for user, item, event, time in zip(
        log["user_id"], log["item_id"], log["event"], log["time"], strict=True
    ):
        if before is None or user != before[0]:
            viewed, begun = set(), None
        else:
            assert time > before[1], "time rises strictly within a user"
        if event == "item_view":
            viewed.add(item)
        assert item in viewed
        if event == "buy_complete":
            assert item == begun
        begun, before = (item if event == "buy_start" else None), (user, time)


def test_histories_are_long_and_views_seldom_repeat(log):
    lengths = np.bincount(log["user_id"])[1:]
    assert 70 < lengths.mean() < 90
    assert lengths.max() > 400
    views = [
        row[:2]
        for row in zip(log["user_id"], log["item_id"], log["event"], strict=True)
        if row[2] == EVENTS[0]
    ]
    assert len(set(views)) > 0.85 * len(views)


def test_popularity_is_a_power_law(log):
    counts = np.sort(np.bincount(log["item_id"])[1:])[::-1]
    middle = np.arange(len(counts) // 100, len(counts) // 2)
    slope = np.polyfit(np.log(middle + 1), np.log(counts[middle]), 1)[0]
    assert -1.1 < slope < -0.5
    assert counts[: len(counts) // 100].sum() > 0.06 * ROWS


def test_categories_are_a_tree(raw):
    items = pq.read_table(raw / "items.parquet").to_pydict()
    assert sorted(items["item_id"]) == list(range(1, len(items["item_id"]) + 1))
    for leaf, middle, top in zip(
        items["category3"], items["category2"], items["category"], strict=True
    ):
        assert leaf.rpartition(" > ")[0] == middle
        assert middle.rpartition(" > ")[0] == top
    assert len(set(items["category"])) == 10
    assert len(set(items["category2"])) <= len(set(items["category3"]))


def test_the_whole_tree_is_in_use_where_the_catalogue_is_large():
    names = [leaf.level3 for leaf in Catalogue.make(30_000, 0).tree]
    assert len(names) == len(set(names)) == 240
    assert len({name.rpartition(" > ")[0] for name in names}) == 60


def test_users_stay_with_their_planted_interests(raw, log):
    """Nine of ten sessions, but for chance; and an interest holds from its first to its last interaction."""
    items = pq.read_table(raw / "items.parquet").to_pydict()
    leaf = dict(zip(items["item_id"], items["category3"], strict=True))
    held = {}
    for row in pq.read_table(raw / "truth" / "interests.parquet").to_pylist():
        held.setdefault(row["user_id"], []).append((row["category3"], row["from"], row["until"]))
    assert set(held) == set(log["user_id"])
    inside = [
        any(name == leaf[item] and first <= time <= last for name, first, last in held[user])
        for user, item, time in zip(log["user_id"], log["item_id"], log["time"], strict=True)
    ]
    assert 0.88 < np.mean(inside) < 0.95
    leaves = [len({name for name, *_ in interests}) for interests in held.values()]
    assert 3 < np.mean(leaves) < 9


def test_rows_do_not_depend_on_how_many_users_are_made_at_once(tmp_path):
    for folder, users_at_once in (("one", 4096), ("many", 7)):
        generate(tmp_path / folder, 20_000, 1, users_at_once=users_at_once)
    for name in ("log", "items", "users", "truth/interests"):
        one, many = (
            pq.read_table(tmp_path / folder / f"{name}.parquet") for folder in ("one", "many")
        )
        assert one.to_pylist() == many.to_pylist()


def test_a_users_rows_depend_on_the_user_alone_and_a_cut_history_is_the_beginning_of_the_whole():
    catalogue, users = Catalogue.make(500, 0), np.arange(1, 60)
    lengths = LENGTHS.of(0, users)
    whole = make_histories(catalogue, 0, users, lengths)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    for index in range(0, 59, 7):
        cut = lengths[index : index + 1] // 2
        one = make_histories(catalogue, 0, users[index : index + 1], cut)
        rows = slice(bounds[index], bounds[index] + int(cut[0]))
        for name in ("position", "event", "time"):
            assert np.array_equal(getattr(one, name), getattr(whole, name)[rows])


def test_another_seed_makes_another_log(raw, tmp_path):
    generate(tmp_path / "raw", 2_000, 4)
    generate(tmp_path / "other", 2_000, 5)
    first, second = (pq.read_table(tmp_path / name / "log.parquet") for name in ("raw", "other"))
    assert first["item_id"] != second["item_id"]


@pytest.mark.parametrize("rows", [1_000, 2_000])
def test_tiny_logs_are_exact_and_can_be_prepared(rows, tmp_path):
    generate(tmp_path / "raw", rows, 0)
    manifest = prepare(Settings("marketplace", tmp_path / "raw"), tmp_path / "data")
    assert manifest.horizon == 8
    assert (
        manifest.counts["interactions"] + manifest.counts["dropped"]["their interactions"] == rows
    )
    assert len(manifest.prior("category").groups) == 11
    assert manifest.user_group == "spending"
    assert manifest.events == list(EVENTS)


@pytest.mark.slow
def test_planted_interests_are_not_read(tiny, tmp_path):
    with_truth = prepare(Settings("marketplace", tiny), tmp_path / "with")
    shutil.rmtree(tiny / "truth")
    without = prepare(Settings("marketplace", tiny), tmp_path / "without")
    assert with_truth.content_sha256 == without.content_sha256


def test_the_same_log_is_not_made_again_and_no_other_folder_is_touched(tiny, tmp_path):
    before = (tiny / "log.parquet").stat().st_mtime_ns
    generate(tiny, 2_000, 0)
    assert (tiny / "log.parquet").stat().st_mtime_ns == before
    for rows, seed, says in (
        (2_001, 0, "another generated log"),
        (2_000, 1, "another generated log"),
        (10, 0, "1000"),
    ):
        with pytest.raises(UserError, match=says):
            generate(tiny, rows, seed)
    (tiny / "log.parquet").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"log\.parquet' is not as it was generated"):
        generate(tiny, 2_000, 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no generated log"):
        generate(tmp_path / "mine", 2_000, 0)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["log.parquet", "items.parquet", "users.parquet"])
def test_missing_and_garbage_files_are_named(tiny, tmp_path, name):
    (tiny / name).write_bytes(b"user_id,item_id\n1,2\n")
    with pytest.raises(UserError, match=rf"{name} is not a Parquet file"):
        prepare(Settings("marketplace", tiny), tmp_path / "data")
    pq.write_table(pa.table({"row": [1]}), tiny / name)
    with pytest.raises(UserError, match=rf"{name} has no column"):
        prepare(Settings("marketplace", tiny), tmp_path / "data")
    (tiny / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}"):
        prepare(Settings("marketplace", tiny), tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("event", "item_veiw", "event must be one of item_view, .*: 'item_veiw'"),
        ("event", None, "event must be one of"),
        ("item_id", 999_999, r"item_id must be listed in items\.parquet: 999999"),
        ("user_id", 0, r"user_id must be listed in users\.parquet: 0"),
        ("time", None, "time must have a value: None"),
        ("time", -5, "time must not be negative: -5"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(tiny, tmp_path, column, value, says):
    file = tiny / "log.parquet"
    rows = pq.read_table(file).to_pydict()
    rows[column][41] = value
    pq.write_table(pa.table(rows), file)
    with pytest.raises(UserError, match=rf"log\.parquet, row 42: {says}"):
        prepare(Settings("marketplace", tiny), tmp_path / "data")
    manifest = prepare(Settings("marketplace", tiny, on_bad_row="drop"), tmp_path / "data")
    dropped = manifest.counts["dropped"]
    assert (
        sum(number for reason, number in dropped.items() if reason.startswith("log.parquet: ")) == 1
    )
    assert manifest.counts["interactions"] + dropped["their interactions"] == 1_999
