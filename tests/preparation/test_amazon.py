"""Amazon in S3-Rec's text format: order is time, raw labels are coarsened by the stated rule."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.coarsen import coarsen
from torchrec_priors.prepared.data_set import PreparedData

LINES = ["7 1 2 3 2", "3 3 2 1", "", "9 4 1", "5 2 4 3 1 5"]
LABELS = {"1": [8], "2": [8, 9], "3": [9, 5], "4": [], "6": [5]}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "Toys.txt").write_text("\n".join(LINES))
    (folder / "Toys_item2attributes.json").write_text(json.dumps(LABELS))
    return folder


def _prepared(raw: Path, **settings) -> PreparedData:
    prepare(Settings("amazon", raw, **settings), raw.parent / "out", overwrite=True)
    return PreparedData(raw.parent / "out")


def test_lines_become_histories_in_their_order(raw):
    data = _prepared(raw)
    ids = data.catalogue(["item_id"])["item_id"].to_pylist()
    histories = {}
    for group in data.row_groups:
        users = data.read_users(group)
        for number, user in enumerate(data.user_ids(group).to_pylist()):
            histories[user] = [ids[row] for row in users.history(number)]
    assert histories == {7: [1, 2, 3, 2], 3: [3, 2, 1], 5: [2, 4, 3, 1, 5]}
    assert data.manifest.counts["dropped"]["users of at most twice the horizon"] == 1
    assert sorted(ids) == [1, 2, 3, 4, 5, 6]  # the log's and the labels' items, both
    assert data.manifest.name == "amazon-toys"
    assert data.manifest.horizon == 1
    assert not data.manifest.has_times


def test_items_without_a_label_are_in_the_remainder(raw):
    data = _prepared(raw)
    ids = data.catalogue(["item_id"])["item_id"].to_pylist()
    info = data.manifest.prior("attribute")
    item, group = data.prior_pairs("attribute", "item")
    assert {
        ids[i] for i, g in zip(item, group, strict=True) if info.groups[g] == "no attribute"
    } == {4, 5}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("8 1 x", "line 6: not two or more integers: '8 1 x'"),
        ("8", "line 6: not two or more integers: '8'"),
    ],
)
def test_garbage_is_named_by_file_and_line_or_dropped_and_counted(line, says, raw):
    with (raw / "Toys.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(UserError, match=re.escape(says)):
        _prepared(raw)
    data = _prepared(raw, on_bad_row="drop")
    assert data.manifest.counts["dropped"]["Toys.txt: not two or more integers"] == 1
    assert data.users == 3


def test_missing_doubled_and_broken_files_are_named(raw, tmp_path):
    with (raw / "Toys.txt").open("a") as file:
        file.write("\n7 1 2 3")
    with pytest.raises(UserError, match="user 7 has two lines"):
        _prepared(raw)
    (raw / "Toys.txt").unlink()
    with pytest.raises(UserError, match=r"lacks Toys\.txt"):
        _prepared(raw)
    (raw / "Toys.txt").write_text(LINES[0])
    (raw / "Toys_item2attributes.json").write_text('{"1": 3}')
    with pytest.raises(UserError, match="not item -> list of label ids"):
        _prepared(raw)
    (raw / "Beauty_item2attributes.json").write_text("{}")
    with pytest.raises(UserError, match=r"2 \(Beauty, Toys\)"):
        _prepared(raw)
    with pytest.raises(UserError, match="no folder"):
        _prepared(tmp_path / "nowhere")


@given(
    st.dictionaries(st.integers(0, 50), st.sets(st.integers(0, 12)), min_size=1), st.integers(2, 6)
)
def test_coarsening_follows_its_rule(labels, most_groups):
    coarse = coarsen({item: sorted(own) for item, own in labels.items()}, most_groups)
    counts = Counter(label for own in labels.values() for label in own)
    kept = {label for own in coarse.values() for label in own}
    assert len(kept) <= most_groups - 1
    assert all(2 * counts[label] <= len(labels) for label in kept)
    left_out = [label for label in counts if label not in kept and 2 * counts[label] <= len(labels)]
    assert not left_out or len(kept) == most_groups - 1
    assert all(counts[one] >= counts[other] for one in kept for other in left_out)
    assert {item: set(own) for item, own in coarse.items()} == {
        item: own & kept for item, own in labels.items()
    }


def test_beauty_has_its_published_size(tmp_path):
    raw = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon-beauty"
    if not (raw / "Beauty.txt").is_file():
        pytest.skip(f"Amazon Beauty is not at {raw}")
    counts = prepare(Settings("amazon", raw), tmp_path / "out").counts
    assert [counts[name] for name in ("users", "items", "interactions")] == [
        22_363,
        12_101,
        198_502,
    ]
    manifest = PreparedData(tmp_path / "out").manifest
    assert len(manifest.prior("category").groups) == 20
    assert len(manifest.prior("attribute").groups) == 638  # 637 and the empty remainder
