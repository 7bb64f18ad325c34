"""What is not appended is refused in one line, and the data set stays as it was."""

import subprocess
import sys
from dataclasses import replace

import growing_shop
import pytest
from growing_shop import write
from small_movielens import write_movielens

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest

SHOP = Given(dataset=str(growing_shop.FILE))
ROWS = [
    (f"user {number % 7}", 1 + number * number % 11, number, number % 3) for number in range(40)
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A data set, and raw files that can be appended; nothing here changes it."""
    folder = tmp_path_factory.mktemp("shop")
    options = ("min_history=2",)
    raw = write(folder / "raw", [*ROWS, ("short", 1, 1, 1)])
    prepare(
        Settings(SHOP.dataset, raw, horizon=1, options=options, keep_short=True), folder / "data"
    )
    write(folder / "new", [("user 1", 2, 99, 0)])
    return folder


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"dataset": None},
            "was made with a custom corpus: give its file with --dataset growing_shop.py",
        ),
        (
            {"dataset": "movielens"},
            "--dataset: the data set is of corpus 'growing_shop.py', not of 'movielens'",
        ),
        ({"horizon": 2}, "--horizon: the data set was made with 1, not with 2: leave it out"),
        ({"seed": 3}, "--seed: the data set was made with 0, not with 3"),
        (
            {"options": ("min_history=3",)},
            "--option: the data set was made with min_history = 2, not 3",
        ),
        ({"split": SplitBy("time")}, "--split: the data set is split differently"),
    ],
)
def test_other_settings(shop, given, words):
    before = read_manifest(shop / "data")
    with pytest.raises(UserError, match=words):
        append(shop / "new", shop / "data", replace(SHOP, **given))
    assert read_manifest(shop / "data") == before
    assert [path.name for path in shop.glob(".*")] == []


def test_the_same_settings_may_be_said_again(shop):
    said = replace(SHOP, horizon=1, seed=0, options=("min_history=2",), split=SplitBy())
    assert append(shop / "raw", shop / "data", said).already


def test_a_corpus_that_has_changed(shop, tmp_path):
    file = tmp_path / "growing_shop.py"
    file.write_text(growing_shop.FILE.read_text() + "\n# more\n")
    with pytest.raises(
        UserError, match=r"growing_shop\.py' has changed since the data set was made: put it back"
    ):
        append(shop / "new", shop / "data", Given(dataset=str(file)))


def test_raw_files_of_another_form(tmp_path):
    prepare(Settings("movielens", write_movielens(tmp_path / "raw"), 8), tmp_path / "data")
    new = write_movielens(tmp_path / "new", seed=1)
    lines = [line.split("\t") for line in (new / "u.data").read_text().splitlines()]
    (new / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n"
        + "".join(f"{u},{i},{r}.5,{t}\n" for u, i, r, t in lines if r != "5")
    )
    films = "".join(f"{film},Film,Comedy\n" for film in range(1, 151))
    (new / "movies.csv").write_text(f"movieId,title,genres\n{films}")
    with pytest.raises(
        UserError, match=r"--append: the raw files have another form: events .* prepare a separate"
    ):
        append(new, tmp_path / "data")


def test_short_histories_that_were_not_kept(shop, tmp_path):
    prepare(Settings(SHOP.dataset, shop / "raw", horizon=1, keep_short=False), tmp_path / "data")
    with pytest.raises(
        UserError, match=r"left out 1 users .* prepare it again with --keep-short yes"
    ):
        append(shop / "new", tmp_path / "data", SHOP)


def test_nothing_to_append_to_and_nothing_to_append(shop, tmp_path):
    with pytest.raises(
        UserError, match="is not a prepared data set: prepare it first, without --append"
    ):
        append(shop / "new", tmp_path / "nowhere", SHOP)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--raw: there is no file in"):
        append(tmp_path / "empty", shop / "data", SHOP)
    with pytest.raises(UserError, match="holds no interaction"):
        append(write(tmp_path / "raw", []), shop / "data", SHOP)


@pytest.mark.slow
def test_a_bad_row_is_refused_or_counted(shop, tmp_path):
    prepare(Settings(SHOP.dataset, shop / "raw", horizon=1), tmp_path / "data")
    new = write(tmp_path / "new", [("user 1", 2, 99, 0), ("user 1", 2, 100, 7)])
    with pytest.raises(UserError, match=r"log\.parquet, row 2: event must be known: 7"):
        append(new, tmp_path / "data", SHOP)
    made = append(new, tmp_path / "data", SHOP, on_bad_row="drop").manifest
    assert made.counts["dropped"]["log.parquet: event must be known"] == 1
    assert made.settings["on_bad_row"] == "drop"


def test_an_item_that_nobody_describes(shop, tmp_path):
    prepare(Settings(SHOP.dataset, shop / "raw", horizon=1), tmp_path / "data")
    new = write(tmp_path / "new", [("user 1", 99, 99, 0)])
    (new / "items.parquet").write_bytes((shop / "raw/items.parquet").read_bytes())
    with pytest.raises(
        UserError, match=r"1 interactions with items outside its catalogue \(1 items, first 99\)"
    ):
        append(new, tmp_path / "data", SHOP)


def test_an_item_that_nobody_described_of_a_user_who_was_too_short(shop, tmp_path):
    old = write(tmp_path / "old", [*ROWS, ("short", 99, 1, 1)])
    (old / "items.parquet").write_bytes((shop / "raw/items.parquet").read_bytes())
    prepare(Settings(SHOP.dataset, old, horizon=1), tmp_path / "data")
    new = write(tmp_path / "new", [("short", 1, 2, 1), ("short", 1, 3, 1)])
    with pytest.raises(
        UserError, match=r"1 interactions with items outside its catalogue \(1 items, first 99\)"
    ):
        append(new, tmp_path / "data", SHOP)


@pytest.mark.slow
def test_a_prepared_data_set_that_grew_is_not_prepared_over(shop, tmp_path):
    again = Settings(SHOP.dataset, shop / "raw", horizon=1)
    prepare(again, tmp_path / "data")
    append(shop / "new", tmp_path / "data", SHOP)
    with pytest.raises(
        UserError, match="was appended to: --append adds to it, --overwrite replaces it"
    ):
        prepare(again, tmp_path / "data")
    assert prepare(again, tmp_path / "data", overwrite=True).grown == []


@pytest.mark.slow
def test_the_command_takes_what_the_data_set_says_and_imports_no_torch(tmp_path):
    raw, new = write_movielens(tmp_path / "raw"), write_movielens(tmp_path / "new", seed=1)
    prepare(Settings("movielens", raw, 8), tmp_path / "data")
    code = (
        "import sys; from torchrec_priors.apps import prepare as app; from torchrec_priors.apps import command\n"
        f"sys.argv[1:] = ['--append', '--raw', {str(new)!r}, '--out', {str(tmp_path / 'data')!r}]\n"
        "try: app.main()\nfinally: assert not {'torch', 'torchrec', 'igraph'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert f"written to {tmp_path / 'data'}" in done.stdout
    assert len(read_manifest(tmp_path / "data").grown) == 1
    for option in (["--overwrite"], ["--generate", "1000"], ["--keep-short", "no"]):
        command = [
            sys.executable,
            "-m",
            "torchrec_priors.apps.prepare",
            "--append",
            "--raw",
            new,
            "--out",
            new,
            *option,
        ]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == f"error: {option[0]} cannot be combined with --append: leave it out\n"
