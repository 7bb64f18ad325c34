"""What a user gets wrong is one line on standard error, naming the thing and the remedy, and exit code 2."""

import logging
import re
import shutil
import signal

import pytest
from command_line import CONFIG, TINY, app

from torchrec_priors.apps import command
from torchrec_priors.config import load_config
from torchrec_priors.errors import StoppedError, UserError


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run that may be evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return shutil.copytree(trained(load_config(CONFIG, TINY)), folder)


def _refused(*arguments, says):
    done = app(*arguments, check=False)
    assert done.returncode == 2, done.stderr
    # On a busy machine, lines of progress may come first.
    *progress, said = done.stderr.splitlines()
    assert all(re.fullmatch(r".* \[\d\d:\d\d\]", line) for line in progress), done.stderr
    assert said.startswith("error: ")
    for words in says:
        assert words in said


def _prepare(raw, out, *more):
    return ["prepare", "--dataset", "movielens", "--raw", raw, "--out", out, *more]


def test_missing_raw_file(small_raw, tmp_path):
    shutil.copytree(small_raw, tmp_path / "raw")
    (tmp_path / "raw" / "u.item").unlink()
    _refused(*_prepare(tmp_path / "raw", tmp_path / "out"), says=["--raw", "lacks u.item"])
    assert not (tmp_path / "out").exists()


def test_missing_raw_folder(tmp_path):
    _refused(
        *_prepare(tmp_path / "nowhere", tmp_path / "out"), says=["there is no folder", "nowhere"]
    )


@pytest.mark.slow
def test_garbage_row_is_named_by_file_and_line(small_raw, tmp_path):
    shutil.copytree(small_raw, tmp_path / "raw")
    lines = (tmp_path / "raw" / "u.data").read_text().splitlines()
    lines[16] = "4\tabc\t5\t880000000"
    (tmp_path / "raw" / "u.data").write_text("\n".join(lines) + "\n")
    _refused(
        *_prepare(tmp_path / "raw", tmp_path / "out"),
        says=["u.data, line 17", "'abc'", "--on-bad-row drop"],
    )
    done = app(*_prepare(tmp_path / "raw", tmp_path / "out", "--on-bad-row", "drop"))
    assert "dropped: 1 (u.data: item_id is not an integer)" in done.stdout


def test_engines_and_amounts_of_memory(small_raw, tmp_path):
    _refused(
        *_prepare(small_raw, tmp_path / "out", "--memory", "much"), says=["--memory: 'much'", "2GB"]
    )
    _refused(*_prepare(small_raw, tmp_path / "out", "--engine", "flink"), says=["flink", "duckdb"])
    _refused(
        *_prepare(small_raw, tmp_path / "out", "--spark-master", "local"), says=["--engine spark"]
    )
    assert list(tmp_path.iterdir()) == []


def test_unknown_data_set(small_raw, tmp_path):
    _refused("prepare", "--dataset", "movilens", "--raw", small_raw, "--out", tmp_path / "out",
             says=["unknown data set 'movilens'", "did you mean 'movielens'?"])  # fmt: skip


def test_unknown_option_and_missing_option(small_raw):
    _refused("prepare", "--datset", "movielens", says=["--datset"])
    _refused("train", "--config", CONFIG, says=["--data"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.dimm=8", ["unknown configuration key 'model.dimm'", "did you mean 'model.dim'?"]),
        ("modle.dim=8", ["unknown configuration key", "modle"]),
        ("model.dim=wide", ["model.dim", "wide", "integer"]),
        ("model.dim=6", ["model.dim = 6", "multiple of 4"]),
        ("training.steps", ["is not an override", "key=value"]),
        ('priors.tree=["genres"]', ["no prior 'genres'", "did you mean 'genre'?"]),
        ('priors.tree=["temporal:3"]', ["temporal:3", "horizon = 8"]),
        ('priors.tree=["genre:x"]', ["genre"]),
        ("embedding.unseen=forgotten", ["embedding.unseen", "forgotten", "hashed", "managed"]),
        (
            "sharding.plan=nowhere.json",
            ["sharding.plan: '", "nowhere.json' holds no plan", "sharding.json"],
        ),
        ("embedding.unseen=managed", ["embedding.rows = 0", "as 48"]),
    ],
)
def test_configuration(small_data, tmp_path, override, words):
    _refused(
        "train",
        "--config",
        CONFIG,
        "--data",
        small_data,
        "--run",
        tmp_path / "run",
        override,
        says=words,
    )
    assert not (tmp_path / "run" / "checkpoints" / "best.json").exists()


def test_missing_configuration_and_broken_toml(small_data, tmp_path):
    arguments = ["--data", small_data, "--run", tmp_path / "run"]
    _refused(
        "train",
        "--config",
        tmp_path / "none.toml",
        *arguments,
        says=["there is no file", "none.toml"],
    )
    (tmp_path / "bad.toml").write_text("[model\ndim = 3")
    _refused(
        "train", "--config", tmp_path / "bad.toml", *arguments, says=["bad.toml", "not valid TOML"]
    )


def test_run_folder_of_another_configuration(run, small_data):
    _refused("train", "--config", CONFIG, "--data", small_data, "--run", run, *TINY, "seed=5",
             says=["another configuration", "seed = 0 there, 5 here"])  # fmt: skip


def test_run_folder_that_is_no_run(small_data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    _refused(
        "train",
        "--config",
        CONFIG,
        "--data",
        small_data,
        "--run",
        tmp_path,
        says=["not empty", "no run"],
    )


def test_unknown_user_item_and_run(run, tmp_path):
    _refused("recommend", "--run", run, "--user", "4711", "--strict", says=["no user '4711'"])
    _refused("recommend", "--run", run, "--history", "1,4711", "--strict", says=["no item '4711'"])
    _refused("recommend", "--run", run, "--user", "1", "--group", "F", says=["--group", "PRIOR"])
    _refused("recommend", "--run", run, says=["--user", "--history"])
    _refused("recommend", "--run", tmp_path, "-k", "zero", says=["-k", "give a whole number"])
    near = f"{tmp_path}x"
    _refused(
        "recommend", "--run", near, "--user", "1", says=["--run", f"did you mean '{tmp_path}'?"]
    )
    _refused("recommend", "--run", tmp_path, "--user", "1", says=["holds no run"])
    _refused("evaluate", "--run", run, "--split", "tset", says=["tset"])


def test_evaluation_of_other_settings(run):
    evaluate = ["evaluate", "--run", run, "--split", "test"]
    _refused(*evaluate, "model.dim=16", says=["'model.dim'", "only evaluation.*"])
    _refused(*evaluate, "--name", "a/b", says=["--name", "'a/b'"])


SEARCH = "[search]\ntrials = 2\nspace.encoder.dropout = "


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (None, [], ["FILE", "there is no file"]),
        (
            "{head}[cells.a]\nmodel.dimm = 8",
            [],
            ["tiny.toml", "cell 'a'", "did you mean 'model.dim'?"],
        ),
        ("{head}[cells.a]", ["--only", "b"], ["--only", "no cell 'b'"]),
        ("{head}[cells.a]", ["-j", "1x2"], ["-j", "--scheduler"]),
        ("{head}[cells.a]", ["--scheduler", "slrum"], ["no 'slrum'", "did you mean 'slurm'?"]),
        ("{head}[cells.a]", ["--data", "nowhere"], ["--data", "nowhere"]),
        ("{head}[cells.a]", ["--search"], ["--search", "no section [search]"]),
        (
            "{head}[cells.a]\n{search}[0.1]",
            ["--search", "--split", "test"],
            ["--search", "only on validation"],
        ),
        ("{head}[cells.a]\n{search}[]", ["--search"], ["'encoder.dropout'", "empty list"]),
        (
            "{head}[cells.a]\n{search}[0.1, 2.0]",
            ["--search"],
            ["cell 'a' with encoder.dropout = 2.0", "[0, 1)"],
        ),
    ],
)
def test_experiment(small_data, tmp_path, text, options, words):
    file = tmp_path / "tiny.toml"
    if text is not None:
        file.write_text(
            text.replace("{head}", f"config = '{CONFIG}'\nseeds = [0]\n").replace(
                "{search}", SEARCH
            )
        )
    _refused(
        "experiment", file, "--data", small_data, "--out", tmp_path / "out", *options, says=words
    )
    assert not (tmp_path / "out" / "runs").exists()


def test_prepared_folder_without_manifest_and_truncated_parquet(small_data, tmp_path):
    arguments = ["--config", CONFIG, "--run", tmp_path / "run"]
    shutil.copytree(small_data, tmp_path / "data")
    part = next((tmp_path / "data" / "sequences").glob("*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    _refused(
        "train",
        "--data",
        tmp_path / "data",
        *arguments,
        says=[part.name, "prepare the data set again"],
    )
    part.write_bytes(b"\0" * len(whole))
    _refused("train", "--data", tmp_path / "data", *arguments, says=[part.name, "cannot be read"])
    (tmp_path / "data" / "manifest.json").unlink()
    _refused(
        "train",
        "--data",
        tmp_path / "data",
        *arguments,
        says=["not a prepared data set", "manifest.json"],
    )


@pytest.mark.slow
def test_under_a_launcher_one_rank_alone_says_it_and_it_is_not_tried_again(small_data, tmp_path):
    done = app("train", "--config", CONFIG, "--data", small_data, "--run", tmp_path / "run", "model.dimm=8",
               ranks=2, restarts=3, check=False)  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("error: unknown configuration key 'model.dimm'") == 1


LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_a_mistake_that_rank_0_does_not_meet_is_said_by_the_rank_that_does(monkeypatch, capsys):
    def read():
        raise UserError("part-00001.parquet\nis missing")

    package = logging.getLogger("torchrec_priors")
    monkeypatch.setattr(package, "level", package.level)  # which the app changes
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command, "_RANK_0_REPORTS_WITHIN", 0.01)
    with pytest.raises(SystemExit) as ended:
        command.run(read, [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: part-00001.parquet is missing (rank 1)\n"


@pytest.mark.parametrize(
    ("variables", "alone", "says"),
    [
        ({"RANK": "1"}, False, "RANK is set, but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "1"}, True, "RANK is set, but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        (LAUNCHED | {"RANK": "one"}, False, "RANK = 'one' must be a whole number from 0 to 1"),
        (LAUNCHED, True, "never is a single process, but a launcher started 2: start one"),
    ],
    ids=str,
)
def test_what_a_launcher_cannot_have_meant_is_said_at_once(
    monkeypatch, capsys, variables, alone, says
):
    def never():
        raise AssertionError("it must not begin")

    package = logging.getLogger("torchrec_priors")
    monkeypatch.setattr(package, "level", package.level)
    monkeypatch.setattr(command, "_RANK_0_REPORTS_WITHIN", 1000.0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        command.run(never, [], single_process=alone)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {says}")


def test_a_run_that_a_signal_stopped_ends_with_its_number(monkeypatch, capsys):
    def stop():
        raise StoppedError("stopped by SIGTERM at step 7", signal.SIGTERM)

    package = logging.getLogger("torchrec_priors")
    monkeypatch.setattr(package, "level", package.level)
    with pytest.raises(SystemExit) as ended:
        command.run(stop, [])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM at step 7\n"


def test_uris(small_raw, small_data, tmp_path):
    train = ["train", "--config", CONFIG]
    _refused(
        *train,
        "--data",
        small_data,
        "--run",
        "s3://bucket/run",
        says=["--run: 's3://bucket/run' is a URI"],
    )
    _refused(
        *train,
        "--data",
        "gopher://bucket/data",
        "--run",
        tmp_path / "run",
        says=["--data", "gopher"],
    )
    _refused(*_prepare("http://localhost:1/raw", tmp_path / "out"), says=["--raw", "http"])
    _refused(
        *_prepare("s3://bucket/raw", tmp_path / "out", "--generate", "1000"),
        says=["--generate", "local folder"],
    )
    _refused(*_prepare(small_raw, "https://host/out"), says=["--out", "http"])


@pytest.mark.slow
def test_a_report_of_nothing(small_data, run, tmp_path):
    out = ["--out", tmp_path / "page"]
    _refused(
        "report",
        "--runs",
        tmp_path / "nowhere",
        *out,
        says=["--runs", "there is no folder", "nowhere"],
    )
    _refused("report", "--runs", small_data, *out, says=["--runs", "holds no run", "train first"])
    _refused(
        "report",
        "--runs",
        run,
        *out,
        says=["nothing can be shown", f"evaluate --run {run} --split test"],
    )
    assert not (tmp_path / "page").exists()
    app("evaluate", "--run", run, "--split", "test")
    _refused("report", "--runs", run, *out, "--reference", "rum", says=["--reference", "'rum'"])
    _refused("report", "--runs", run, *out, "--baseline=rum", says=["--baseline", "--reference"])
    _refused("report", "--runs", run, "--out", run / "config.toml", says=["--out", "is a file"])
    done = app("report", "--runs", run, run, *out)
    assert f"written to {tmp_path / 'page' / 'index.html'}" in done.stdout
