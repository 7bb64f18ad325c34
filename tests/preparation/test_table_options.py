"""The description of a table: options, a TOML file, what the manifest records, and appending."""

import pytest
from stores import fill, fresh

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.build.summary import summary
from torchrec_priors.preparation.new_corpus import write_new_corpus
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.table.fetch import fetched
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.uri import Uri

FULL = TableOptions(
    table="events.csv",
    user="user_id",
    item="item_id",
    time="ts",
    event="type",
    items="catalogue.csv",
    title="name",
    label=("category", "tags=|"),
    user_label=("segment=users.csv",),
)
TOML = """
table = "events.csv"
user = "user_id"
item = "item_id"
time = "ts"
event = "type"
items = "catalogue.csv"
title = "name"
label = ["category", "tags=|"]
user-label = ["segment=users.csv"]
"""


def test_a_toml_file_says_what_the_options_say(tmp_path):
    file = tmp_path / "shop.toml"
    file.write_text(TOML)
    table = TableOptions.from_toml(file).described()
    assert table.name == "shop"
    assert table.log == tmp_path / "events.csv"
    assert table.user_labels == {"segment": tmp_path / "users.csv"}
    assert {**table.recorded(), "name": "events"} == FULL.described().recorded()

    over = TableOptions(table="s3://bucket/events").over(TableOptions.from_toml(file)).described()
    assert str(over.log) == "s3://bucket/events"
    assert over.items == tmp_path / "catalogue.csv"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("usr = 'x'", "unknown key 'usr': did you mean 'user'"),
        ("user = 3", "user must be a text"),
        ("label = [1]", "label must be a list of texts"),
        ("user = [", "cannot be read"),
    ],
)
def test_mistakes_in_a_toml_file(text, says, tmp_path):
    file = tmp_path / "shop.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=says):
        TableOptions.from_toml(file)
    with pytest.raises(UserError, match="there is no file"):
        TableOptions.from_toml(tmp_path / "other.toml")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"time": None}, "--time is missing: give the column of the times"),
        ({"table": None}, "--table is missing: give the file or folder of the log"),
        ({"item": "user_id"}, "--item: 'user_id' is the column of --user, too"),
        ({"label": ("a", "a")}, "--label: 'a' is given twice"),
        ({"label": ("a=",)}, "--label: 'a=' has no separator"),
        ({"user_label": ("segment",)}, "write segment=FILE"),
        ({"time_format": "day"}, "--time-format: 'day' is not a form"),
    ],
)
def test_mistakes_in_options(given, says):
    with pytest.raises(UserError, match=says):
        TableOptions(**{**vars(FULL), **given}).described()


def test_new_tables_take_their_columns_from_the_data_set():
    recorded = FULL.described().recorded()
    given = TableOptions(
        table="new.csv", items="new items.csv", user_label=("segment=new users.csv",)
    )
    table = given.appended_to(recorded)
    assert table.recorded() == recorded
    assert str(table.log) == "new.csv"

    for more, says in [
        ({"user": "visitor"}, "made with 'user_id', not 'visitor': leave it out"),
        ({"items": None}, "--items is missing"),
        ({"user_label": ()}, "give --user-label segment=FILE"),
    ]:
        with pytest.raises(UserError, match=says):
            TableOptions(**{**vars(given), **more}).appended_to(recorded)


def _log(users, days, first=1):
    lines = [
        f"u{user};{item};2024-03-{day:02d} 10:00"
        for user in users
        for day, item in zip(days, range(first, first + len(days)), strict=True)
    ]
    return "\n".join(["user_id;item_id;ts", *lines]) + "\n"


@pytest.mark.slow
def test_prepared_again_appended_and_changed(tmp_path):
    whole, old, new = (tmp_path / name for name in ("whole.csv", "old.csv", "new.csv"))
    whole.write_text(_log("abc", range(1, 9)))
    old.write_text(_log("ab", range(1, 7)))
    new.write_text(_log("ab", range(7, 9), 7) + _log("c", range(1, 9)).partition("\n")[2])
    columns = {"user": "user_id", "item": "item_id", "time": "ts", "name": "shop"}

    def settings(file, **more):
        return Settings(horizon=1, table=TableOptions(str(file), **columns).described(), **more)

    expected = prepare(settings(whole), tmp_path / "expected")
    first = prepare(settings(old), tmp_path / "shop")
    assert first.settings["dataset"] == "table"
    assert first.settings["options"] == columns
    assert first.settings["understood"][0] == "old.csv: CSV with ';' between the values, 12 rows"

    reports = []
    again = prepare(settings(old), tmp_path / "shop", report=reports.append)
    assert again.content_sha256 == first.content_sha256
    assert reports == [f"{tmp_path / 'shop'} already holds this data set"]
    with pytest.raises(UserError, match="other settings"):
        prepare(settings(old, seed=1), tmp_path / "shop")

    with pytest.raises(UserError, match="made from tables: give the new ones with --table"):
        append(tmp_path, tmp_path / "shop")
    grown = append(None, tmp_path / "shop", Given(table=TableOptions(str(new))))
    assert grown.understood[0] == "new.csv: CSV with ';' between the values, 12 rows"
    assert grown.manifest.counts == expected.counts
    assert append(None, tmp_path / "shop", Given(table=TableOptions(str(new)))).already
    lengths = sorted(PreparedData(tmp_path / "shop").lengths.tolist())
    assert lengths == sorted(PreparedData(tmp_path / "expected").lengths.tolist()) == [8, 8, 8]

    new.write_text(_log("d", range(1, 9)).replace(";1;", ";X1;"))
    with pytest.raises(UserError, match="type of item_id text here, integer in the data set"):
        append(None, tmp_path / "shop", Given(table=TableOptions(str(new))))


@pytest.mark.slow
def test_a_new_corpus_file_works_as_it_is(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [f"{user},{item},{1709251200000 + item},view" for user in "ab" for item in range(6)]
    (raw / "log.csv").write_text("\n".join(["user_id,item_id,timestamp,action", *rows]) + "\n")
    items = [f"{item},Item {item},{'' if item % 2 else 'even'}" for item in range(6)]
    (raw / "items.csv").write_text("\n".join(["item_id,title,category", *items]) + "\n")

    write_new_corpus(tmp_path / "shop.py")
    manifest = prepare(Settings(str(tmp_path / "shop.py"), raw), tmp_path / "out")
    assert "prior category (item): even 3, no category 3" in summary(manifest)
    assert "prior action (event): view 4\n" in summary(manifest) + "\n"

    with pytest.raises(UserError, match="exists: give another name"):
        write_new_corpus(tmp_path / "shop.py")
    with pytest.raises(UserError, match=r"must end with \.py"):
        write_new_corpus(tmp_path / "shop.txt")


def test_tables_in_a_store_are_fetched(monkeypatch, tmp_path):
    fresh(monkeypatch, tmp_path / "cache")
    (tmp_path / "raw" / "log").mkdir(parents=True)
    (tmp_path / "raw" / "log" / "1.csv").write_text("ts\n")
    (tmp_path / "raw" / "items.csv").write_text("item_id\n")
    uri = "pretended://bucket/raw"
    fill(tmp_path / "raw", Uri(uri))
    table = TableOptions(
        table=f"{uri}/log", user="u", item="i", time="ts", items=f"{uri}/items.csv"
    ).described()
    local = fetched(table, lambda _: None)
    assert [file.name for file in local.log.iterdir()] == ["1.csv"]
    assert local.items.read_text() == "item_id\n"
    assert (local.name, local.recorded()) == ("log", table.recorded())

    missing = TableOptions(table=f"{uri}/no.csv", user="u", item="i", time="ts").described()
    with pytest.raises(UserError, match=r"--table: 'pretended://bucket/raw.*' has no files"):
        fetched(missing, lambda _: None)
