"""The marketplace's world of mixed interests as files: options, truth, preparation, reproducibility."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import find_corpus, generate_log
from torchrec_priors.preparation.options import read_generation
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.synthetic.files import generate
from torchrec_priors.synthetic.mixed.mix import Mix

ROWS = 20_000
FILES = {
    "communities", "favourites", "groups", "interactions", "interests", "sessions", "users",
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A generated log; tests must not change it."""
    folder = tmp_path_factory.mktemp("mixed") / "raw"
    generate(folder, ROWS, 1, items=1_000, mix=Mix())
    return folder


def _columns(file):
    return pq.read_table(file).to_pydict()


def test_rows_do_not_depend_on_how_many_users_are_made_at_once(raw, tmp_path):
    generate(tmp_path / "many", ROWS, 1, items=1_000, mix=Mix(), users_at_once=7)
    for file in sorted(raw.rglob("*.parquet")):
        assert _columns(file) == _columns(tmp_path / "many" / file.relative_to(raw)), file


@pytest.mark.parametrize(
    ("mix", "digest"), [(None, "36e19af958c3d448"), (Mix(), "ca37e64f3d5f1194")]
)
def test_the_same_seed_gives_the_same_log_in_every_version(mix, digest, tmp_path):
    generate(tmp_path / "raw", 1_000, 0, mix=mix)
    log = pq.read_table(
        tmp_path / "raw" / "log.parquet", columns=["user_id", "item_id", "event", "time"]
    )
    assert hashlib.sha256(repr(log.to_pydict()).encode()).hexdigest()[:16] == digest


def test_another_seed_and_another_share_make_another_log(raw, tmp_path):
    first = pq.read_table(raw / "log.parquet")["item_id"]
    for name, seed, mix in (("seed", 2, Mix()), ("share", 1, Mix(session=0.0))):
        generate(tmp_path / name, ROWS, seed, items=1_000, mix=mix)
        assert pq.read_table(tmp_path / name / "log.parquet")["item_id"] != first


def test_the_truth_is_about_the_log(raw):
    log = _columns(raw / "log.parquet")
    truth = {name: _columns(raw / "truth" / f"{name}.parquet") for name in FILES}
    items = _columns(raw / "items.parquet")
    assert truth["interactions"]["row"] == log["row"]
    assert truth["groups"]["label"] == truth["users"]["group"]
    assert truth["groups"]["label"] == _columns(raw / "users.parquet")["spending"]
    assert sorted(truth["communities"]["item_id"]) == sorted(items["item_id"])

    leaf = dict(zip(items["item_id"], items["category3"], strict=True))
    community = dict(
        zip(truth["communities"]["item_id"], truth["communities"]["label"], strict=True)
    )
    favourites = set(zip(truth["favourites"]["item_id"], truth["favourites"]["label"], strict=True))
    users = {
        row["user_id"]: row for row in pq.read_table(raw / "truth" / "users.parquet").to_pylist()
    }
    topics = {
        (user, session): names
        for user, session, names in zip(
            truth["sessions"]["user_id"],
            truth["sessions"]["session"],
            truth["sessions"]["topics"],
            strict=True,
        )
    }
    for user, item, event, source, pool, session in zip(
        log["user_id"],
        log["item_id"],
        log["event"],
        truth["interactions"]["source"],
        truth["interactions"]["pool"],
        truth["interactions"]["session"],
        strict=True,
    ):
        match source:
            case "long_term":
                assert pool == leaf[item]
                assert pool in users[user]["interests"]
            case "session":
                assert pool == leaf[item]
                assert pool in topics[user, session]
            case "event":
                assert pool == event
                assert (item, event) in favourites
            case "community":
                assert pool == community[item]
                assert pool in users[user]["communities"]
            case "group":
                assert pool == users[user]["group"]
                assert (item, pool) in favourites
            case _:
                assert (source, pool) == ("popular", "catalogue")


def test_weights_of_the_truth_sum_to_one(raw):
    for row in pq.read_table(raw / "truth" / "users.parquet").to_pylist():
        assert sum(row["community_weights"]) == pytest.approx(1)
        assert len(row["interests"]) == len(row["weights_at_first"]) == len(row["weights_at_last"])
        assert sum(row["weights_at_first"]) == pytest.approx(1)
        assert sum(row["weights_at_last"]) == pytest.approx(1)
        assert row["weights_at_first"] != row["weights_at_last"]
    for row in pq.read_table(raw / "truth" / "sessions.parquet").to_pylist():
        assert sum(row["topic_weights"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("off", "files", "columns"),
    [
        ("long_term", {"interests"}, ["interests", "weights_at_first", "weights_at_last"]),
        ("session", {"sessions"}, []),
        ("community", {"communities"}, ["communities", "community_weights"]),
        ("group", {"groups"}, ["group"]),
        ("event", set(), []),
    ],
)
def test_what_is_off_is_not_in_the_truth(off, files, columns, tmp_path):
    generate(tmp_path / "raw", 2_000, 0, mix=Mix(**{off: 0.0}))
    truth = tmp_path / "raw" / "truth"
    assert {file.stem for file in truth.iterdir()} == FILES - files
    users = pq.read_table(truth / "users.parquet")
    empty = {name for name in users.column_names if users[name].null_count == len(users)}
    assert empty == set(columns)
    assert off not in _columns(truth / "interactions.parquet")["source"]
    labels = set(_columns(truth / "favourites.parquet")["label"])
    assert ("item_view" in labels) == (off != "event")
    assert ("bargain hunters" in labels) == (off != "group")


@pytest.mark.slow
def test_the_log_can_be_prepared_without_its_truth(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "bare", ignore=shutil.ignore_patterns("truth"))
    with_truth = prepare(Settings("marketplace", raw), tmp_path / "with")
    without = prepare(Settings("marketplace", tmp_path / "bare"), tmp_path / "without")
    assert with_truth.content_sha256 == without.content_sha256
    assert sum(with_truth.counts["dropped"].values()) > 0
    assert with_truth.user_group == "spending"
    assert len(with_truth.events) == 6


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1_000, 2_000])
def test_tiny_logs_are_exact_and_can_be_prepared(rows, tmp_path):
    """Of 44 or 74 items, long histories repeat some."""
    generate(tmp_path / "raw", rows, 0, mix=Mix())
    manifest = prepare(Settings("marketplace", tmp_path / "raw"), tmp_path / "data")
    dropped = manifest.counts["dropped"]["their interactions"]
    assert manifest.counts["interactions"] + dropped == rows


@pytest.mark.parametrize("mix", [None, Mix()])
def test_the_size_of_the_catalogue_can_be_given(mix, tmp_path):
    generate(tmp_path / "raw", 1_000, 0, items=77, mix=mix)
    items = _columns(tmp_path / "raw" / "items.parquet")
    assert sorted(items["item_id"]) == list(range(1, 78))
    assert np.isin(_columns(tmp_path / "raw" / "log.parquet")["item_id"], items["item_id"]).all()
    with pytest.raises(UserError, match=r"options \{'items': 77"):
        generate(tmp_path / "raw", 1_000, 0, mix=mix)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["items=9"], "--option: items = 9: give 10 to 10,000,000"),
        (["world=mixd"], "--option: world = 'mixd': input should be 'sessions' or 'mixed'"),
        (["session=.1", "drift=0"], "--option: session, drift needs --option world=mixed"),
        (["world=mixed", "group=.9"], "are 1.7 together: give shares with a sum of at most 1"),
        (["world=mixed", "communities=60"], "communities = 60: the catalogue has only 44 items"),
        (["wrld=mixed"], "--option: this corpus has no option 'wrld': did you mean 'world'?"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_written(given, says, tmp_path):
    with pytest.raises(UserError, match=re.escape(says)):
        generate_log("marketplace", tmp_path / "raw", 1_000, 0, lambda _: None, given)
    assert not any(tmp_path.iterdir())


def test_options_are_kept_with_the_log(tmp_path):
    options = ["world=mixed", "long_term=0.25", "communities=3"]
    for _ in range(2):  # the second time the log is already there
        generate_log("marketplace", tmp_path / "raw", 1_000, 0, lambda _: None, options)
    kept = json.loads((tmp_path / "raw" / "generated.json").read_text())["options"]
    assert kept == {"mix": Mix(long_term=0.25, communities=3).values()}
    with pytest.raises(UserError, match="holds another generated log"):
        generate_log("marketplace", tmp_path / "raw", 1_000, 0, lambda _: None, options[:2])


def test_the_card_and_the_docstring_explain_each_option():
    found = find_corpus("marketplace")
    card = Path(found.__file__).with_suffix(".md").read_text(encoding="utf8")
    for option in vars(read_generation(found, [])):
        assert f"| `{option}` |" in card
        assert f"{option}: " in found.Generation.__doc__
