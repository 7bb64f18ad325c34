"""`torchrec-priors prior`: adds priors to a data set; mistakes are one line and exit code 2."""

import shutil

import pytest
from command_line import CONFIG, TINY, app

from torchrec_priors.prepared.manifest import read_manifest, verify


@pytest.fixture
def data(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.slow
def test_priors_of_every_kind_and_a_run_with_one(data, tmp_path):
    (tmp_path / "moods.csv").write_text("item_id,label\n1,calm\n2,loud\n7777,loud\n")
    for options in (
        ["graph", "--name", "community", "--groups", "5"],
        ["user", "--name", "crowd", "--groups", "3", "--min-size", "5", "--weights", "equal"],
        ["user", "--name", "job", "--by", "occupation", "--groups", "3"],
        ["item", "--name", "mood", "--from", tmp_path / "moods.csv"],
    ):
        said = app("prior", *options, "--data", data).stdout
        assert f"written to {data / 'priors' / options[2]}.parquet" in said
        verify(data)
    kinds = [
        (prior.name, prior.kind, len(prior.groups)) for prior in read_manifest(data).priors[-4:]
    ]
    assert kinds == [
        ("community", "graph", 5),
        ("crowd", "user", 3),
        ("job", "user", 3),
        ("mood", "item", 3),
    ]
    assert "1 ids are not items of the data set" in said
    assert "prior mood (item): no mood 148, calm 1, loud 1" in said
    app(
        "train",
        "--config",
        CONFIG,
        "--data",
        data,
        "--run",
        tmp_path / "run",
        *TINY,
        'priors.tree=["mood"]',
    )
    assert "calm" in app("recommend", "--run", tmp_path / "run", "--user", "6", "-k", "150").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["graf", "--name", "x"], ["graf"]),
        (["graph"], ["--name"]),
        (["graph", "--name", "genre"], ["prior 'genre' came with the data"]),
        (["graph", "--name", "a/b"], ["--name: prior 'a/b' cannot be the name of a file"]),
        (["graph", "--name", "x", "--from", "y"], ["--from is for prior item and prior user"]),
        (["graph", "--name", "x", "--by", "age"], ["--by is for prior user, not for prior graph"]),
        (
            ["graph", "--name", "x", "--users-per-item", "5"],
            ["prior graph does not take --users-per-item"],
        ),
        (
            ["graph", "--name", "x", "--groups", "3", "--resolution", "2", "--no-join"],
            ["--groups and --resolution"],
        ),
        (["graph", "--name", "x", "--last", "0"], ["--last must be at least 1"]),
        (["item", "--name", "x"], ["prior item needs --from FILE"]),
        (["item", "--name", "x", "--from", "none.csv"], ["--from: there is no file 'none.csv'"]),
        (
            ["item", "--name", "x", "--from", "y", "--groups", "3"],
            ["--from does not take --groups"],
        ),
        (
            ["user", "--name", "x", "--by", "agee"],
            ["no attribute 'agee' of users: did you mean 'age'?"],
        ),
        (["user", "--name", "x", "--by", "age", "--last", "9"], ["--by does not take --last"]),
        (["user", "--name", "x", "--by", "age", "--no-join"], ["--by does not take --join"]),
        (["user", "--name", "x", "--by", "age", "--weights", "pmi"], ["does not take --weights"]),
        (["graph", "--name", "x", "--weights", "count"], ["count"]),
        (
            ["user", "--name", "x", "--by", "age", "--min-size", "0"],
            ["--min-size must be at least 1"],
        ),
        (["user", "--name", "x", "--users-per-item", "1"], ["--users-per-item must be at least 2"]),
    ],
)
def test_mistakes(options, words, small_data):
    before = read_manifest(small_data)
    done = app("prior", *options, "--data", small_data, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    for text in words:
        assert text in done.stderr
    assert read_manifest(small_data) == before


def test_data_that_is_none(tmp_path):
    done = app("prior", "graph", "--data", tmp_path, "--name", "x", check=False)
    assert done.returncode == 2
    assert "is not a prepared data set" in done.stderr
