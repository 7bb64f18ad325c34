"""What a person types is a local path or a URI, and what cannot be is said."""

from pathlib import Path

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.remote.uri import Uri, place_of, refuse_uri


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("prepared/shop", Path("prepared/shop")),
        ("/data/a:b//shop", Path("/data/a:b//shop")),
        ("C:/shop", Path("C:/shop")),
        ("file:///data/shop", Path("/data/shop")),
        ("s3://bucket/shop/", Uri("s3://bucket/shop")),
        ("S3://bucket/Shop", Uri("s3://bucket/Shop")),
        ("hf://datasets/me/shop@v1", Uri("hf://datasets/me/shop@v1")),
        ("hdfs://me@head:8020/shop", Uri("hdfs://me@head:8020/shop")),
    ],
)
def test_paths_and_uris(text, meant):
    assert place_of(text) == meant
    assert place_of(str(place_of(text))) == meant  # as a run records it


def test_parts_of_a_uri():
    uri = Uri("s3://bucket/shop")
    assert (str(uri / "priors/a.parquet"), uri.name, uri.protocol) == (
        "s3://bucket/shop/priors/a.parquet",
        "shop",
        "s3",
    )
    assert uri.absolute() == uri


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file://data/shop", ["--raw", "file:///folder"]),
        ("s3://", ["s3://bucket/folder"]),
        ("https://me:secret@host/shop", ["password", "environment"]),
        ("https://host/shop?signature=1", ["query"]),
    ],
)
def test_what_names_nothing_is_refused(text, words):
    with pytest.raises(UserError) as refused:
        place_of(text, "--raw")
    for word in words:
        assert word in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_uri_where_a_path_must_be(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--run: 's3://bucket/run' is a URI"):
        refuse_uri(Path("s3://bucket/run"), "--run")
    monkeypatch.chdir(tmp_path)
    Path("s3:/bucket").mkdir(parents=True)
    for local in ("s3:/bucket", "runs/a", "/data/s3:/x", "a:/"):
        refuse_uri(Path(local), "--run")
