"""From raw files in a store to recommendations, as commands; runs go from a store to a local copy and back."""

import json
import shutil
from uuid import uuid4

import pytest
from command_line import CONFIG, TINY, app


@pytest.fixture(params=["local", "s3"])
def bucket(request, tmp_path, monkeypatch, small_raw):
    """URI of a folder of a store that holds the small raw files as `raw`."""
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "cache"))
    if request.param == "local":  # a store like any other to what is not file://
        monkeypatch.setenv("FSSPEC_LOCAL_AUTO_MKDIR", "true")
        shutil.copytree(small_raw, tmp_path / "bucket" / "raw")
        yield f"local://{tmp_path}/bucket"
        return
    s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    server = pytest.importorskip(
        "moto.server", reason="moto, which pretends to be S3, is not installed"
    )
    pretended = server.ThreadedMotoServer(port=0)
    pretended.start()
    for name, value in (
        ("ACCESS_KEY_ID", "me"),
        ("SECRET_ACCESS_KEY", "me"),
        ("DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*pretended.get_host_and_port()))
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    name = f"bucket-{uuid4().hex}"
    files.mkdir(name)
    files.put(f"{small_raw}/", f"{name}/mine/raw/", recursive=True)
    yield f"s3://{name}/mine"
    pretended.stop()


@pytest.mark.slow
def test_from_raw_files_to_recommendations(bucket, small_data, tmp_path):
    said = app(
        "prepare", "--dataset", "movielens", "--raw", f"{bucket}/raw", "--out", f"{bucket}/data"
    ).stdout
    assert f"written to {bucket}/data" in said
    shutil.rmtree(tmp_path / "cache")  # another machine
    (tmp_path / "moods.csv").write_text("item_id,label\n1,calm\n2,loud\n")
    said = app(
        "prior",
        "item",
        "--name",
        "mood",
        "--from",
        tmp_path / "moods.csv",
        "--data",
        f"{bucket}/data",
    ).stdout
    assert f"written to {bucket}/data/priors/mood.parquet" in said
    run = tmp_path / "run"
    train = ["train", "--config", CONFIG, *TINY, "--run", run]
    app(*train, "--data", f"{bucket}/data")
    assert json.loads((run / "data.json").read_text())["path"] == f"{bucket}/data"
    app(*train, "--data", small_data)  # the same data here: nothing is left to do
    metrics = []
    for where in ([], ["--data", f"file://{small_data}"]):
        app("evaluate", "--run", run, "--split", "test", *where)
        metrics.append(json.loads((run / "eval/test/metrics.json").read_text()))
    assert metrics[0]["ndcg@10"] == metrics[1]["ndcg@10"]
    assert "because of" in app("recommend", "--run", run, "--user", "7").stdout


def test_mistakes(bucket, tmp_path):
    for name, arguments, words in [
        (
            "train",
            ["--config", CONFIG, "--data", f"{bucket}/nowhere", "--run", tmp_path / "run"],
            ["--data", "nowhere"],
        ),
        (
            "prepare",
            ["--dataset", "movielens", "--raw", f"{bucket}/nowhere", "--out", tmp_path / "out"],
            ["--raw"],
        ),
        (
            "prepare",
            ["--dataset", "movielens", "--raw", f"{bucket}/raw", "--out", f"{bucket}/raw"],
            ["--out"],
        ),
    ]:
        done = app(name, *arguments, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert all(word in done.stderr for word in words)


@pytest.mark.slow
def test_commands_with_a_handler_of_iopath(small_data, tmp_path, monkeypatch):
    """`held_in_memory` registers a handler whose files are in the memory of each command."""
    pytest.importorskip("iopath", reason="the extra `iopath` is not installed")
    monkeypatch.setenv("TORCHREC_PRIORS_CACHE", str(tmp_path / "cache"))
    shutil.copytree(small_data, tmp_path / "shop" / "data")
    run = tmp_path / "shop" / "run"
    train = ["train", "--config", CONFIG, *TINY, "--data", "held://shop/data", "--run", run]
    said = app(*train, check=False)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
    assert "name the module that registers its handler in TORCHREC_PRIORS_IMPORT" in said.stderr

    monkeypatch.setenv("TORCHREC_PRIORS_IMPORT", "held_in_memory")
    monkeypatch.setenv("HELD_FOLDER", str(tmp_path / "shop"))
    app(*train, ranks=2)
    app("evaluate", "--run", "held://shop/run", "--split", "test", ranks=2)
    for where in (run, "held://shop/run"):
        assert "because of" in app("recommend", "--run", where, "--user", "7").stdout
    refused = app(
        "train", "--config", CONFIG, "--data", small_data, "--run", "held://shop/run", check=False
    )
    assert "--run: 'held://shop/run' is a URI" in refused.stderr
