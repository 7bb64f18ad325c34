"""`prepare --generate` as a command and as a TorchX component."""

import pytest
from command_line import BIN, REPOSITORY, app, run

from torchrec_priors.prepared.manifest import read_manifest


@pytest.mark.slow
def test_a_log_is_made_up_and_prepared_and_found_again(tmp_path):
    arguments = ["--dataset", "marketplace", "--raw", tmp_path / "raw", "--out", tmp_path / "data"]
    for _ in range(2):
        assert (
            "marketplace: "
            in app("prepare", *arguments, "--generate", "1000", "--seed", "7").stdout
        )
    assert read_manifest(tmp_path / "data").settings["seed"] == 7
    component = ["run", "-s", "local_cwd", "--dryrun", "components/prepare.py:prepare", *arguments]
    shown = run([BIN / "torchx", *component, "--generate", "1000"], cwd=REPOSITORY)
    assert "--generate" in shown.stdout
    assert "1000" in shown.stdout


def test_a_corpus_that_cannot_generate_names_those_that_can(tmp_path):
    arguments = [
        "--dataset",
        "movielens",
        "--raw",
        tmp_path / "raw",
        "--out",
        tmp_path / "data",
        "--generate",
        "1000",
    ]
    done = app("prepare", *arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --generate: corpus 'movielens' cannot generate raw files; these can: "
    )
    assert "marketplace" in done.stderr


@pytest.mark.slow
def test_options_of_a_generated_log_belong_to_generate(tmp_path):
    arguments = ["--dataset", "marketplace", "--raw", tmp_path / "raw", "--out", tmp_path / "data"]
    mixed = ["--option", "world=mixed", "--option", "session=0"]
    app("prepare", *arguments, *mixed, "--generate", "1000")
    assert "options" not in read_manifest(tmp_path / "data").settings
    app("prepare", *arguments)  # the log is there, and its options are kept with it
    done = app("prepare", *arguments, *mixed, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --option: 'world' is an option of a generated log")
