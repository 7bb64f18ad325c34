"""A run's files are read as they were written, or named in one line; nothing is made up for a damaged one."""

import json
import shutil

import numpy as np
import pytest
import tiny

from torchrec_priors.common.files import read_json
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.report.runs import find
from torchrec_priors.training.checkpoint.folder import CheckpointFolder
from torchrec_priors.training.run.ancestry import read_ancestry
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.log_lines import read_lines, to_line
from torchrec_priors.training.run.paths import path_names
from torchrec_priors.training.run.same_run import check_same_run

CONFIG = tiny.config(
    model={"horizon": 2},
    negatives={"per_set": 8},
    embedding={"unseen": "dropped", "min_frequency": 3},
)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained(CONFIG), tmp_path / "run")


def _seen(run):
    folder = RunFolder(run)
    config, data = folder.open()
    return folder.trained_on(config, data).seen_I.tolist()


READERS = {  # file -> what is read of it
    "config.toml": lambda run: RunFolder(run).config(),
    "data.json": lambda run: RunFolder(run).origin(),
    "paths.json": lambda run: path_names(run / "paths.json"),
    "seen.parquet": _seen,
    "trained.parquet": lambda run: read_ancestry(RunFolder(run)).part.history_N.tolist(),
    "checkpoints/best.json": lambda run: CheckpointFolder(run / "checkpoints").best_step(),
    "metrics.jsonl": lambda run: read_lines(run / "metrics.jsonl"),
    "sharding.json": lambda run: read_json(run / "sharding.json", remedy="train again"),
    "summary.json": lambda run: read_json(run / "summary.json", remedy="train again"),
}


def _damaged(content, random):
    """A bit flipped, a page zeroed, the end cut off, or a piece left out."""
    place = int(random.integers(len(content)))
    match int(random.integers(4)):
        case 0:
            flipped = content[place] ^ (1 << int(random.integers(8)))
            return content[:place] + bytes([flipped]) + content[place + 1 :]
        case 1:
            end = min(len(content), place + int(random.integers(1, 64)))
            return content[:place] + bytes(end - place) + content[end:]
        case 2:
            return content[:place]
        case _:
            return content[:place] + content[place + int(random.integers(1, 32)) :]


@pytest.mark.parametrize("name", READERS)
def test_no_damage_is_believed(name, run):
    file, read, random = run / name, READERS[name], np.random.default_rng(len(name))
    content, right, said = file.read_bytes(), READERS[name](run), []
    for _ in range(60):
        damaged = _damaged(content, random)
        if damaged == content:
            continue
        file.write_bytes(damaged)
        try:
            found = read(run)
        except UserError as error:
            said.append(str(error))
            continue
        if name == "metrics.jsonl":  # cut after a whole line, as by a kill
            assert found == right[: len(found)]
        else:
            assert found == right
    assert len(said) > 40
    for message in said:
        assert str(file) in message
        assert "\n" not in message


@pytest.mark.parametrize("name", READERS)
def test_empty_files_and_folders_in_their_places_are_named(name, run):
    file = run / name
    if name != "metrics.jsonl":  # which is empty at first
        file.write_bytes(b"")
        with pytest.raises(UserError, match=file.name):
            READERS[name](run)
    file.unlink()
    file.mkdir()
    with pytest.raises((UserError, IsADirectoryError), match=file.name):
        READERS[name](run)


def test_a_configuration_that_was_edited_or_cut_is_not_the_runs(run):
    file = run / "config.toml"
    text = file.read_text()
    file.write_text(text.replace("dim = 8", "dim = 16"))
    with pytest.raises(
        UserError, match=r"config.toml' has changed since the run was recorded: put it back"
    ):
        RunFolder(run).open()
    file.write_text(text[: text.index("[training]")])  # valid TOML, with defaults for the rest
    with pytest.raises(
        UserError, match=r"config.toml' has changed since the run was recorded: put it back"
    ):
        RunFolder(run).open()


def test_a_note_of_the_best_that_is_damaged_is_written_again_by_training(run, small_data, caplog):
    file = run / "checkpoints" / "best.json"
    before = read_json(file, remedy="")
    file.write_text(file.read_text().replace(str(before["step"]), "3"))
    with pytest.raises(
        UserError, match=r"best.json' is damaged .*: the train command of this run writes it again"
    ):
        CheckpointFolder(run / "checkpoints").best_step()
    tiny.train(CONFIG, small_data, run)
    assert (
        "best.json' is damaged (it does not match its checksum): it is written again" in caplog.text
    )
    assert read_json(file, remedy="")["step"] == before["step"]


def test_the_best_checkpoint_that_is_gone_is_not_called_missing_training(run):
    folder = CheckpointFolder(run / "checkpoints")
    shutil.rmtree(folder.place(folder.best_step()))
    with pytest.raises(
        UserError, match=r"the best checkpoint '.*step-0000000\d' is missing: put it back"
    ):
        folder.best_step()


def test_a_last_line_that_was_cut_is_trimmed_and_a_damaged_line_is_named(run, small_data):
    file = run / "metrics.jsonl"
    lines = file.read_text()
    file.write_text(lines + '{"step": 5, "lo')
    assert len(read_lines(file)) == len(lines.splitlines())
    first, second, rest = lines.split("\n", 2)
    file.write_text(f"{first}\n{second[:-10]}\n{rest}")
    with pytest.raises(
        UserError, match=r"metrics.jsonl' is damaged in line 2: put it back, or remove that line"
    ):
        read_lines(file)
    with pytest.raises(UserError, match="line 2"):
        tiny.train(CONFIG, small_data, run)


def test_other_programs_read_the_lines_and_lines_of_earlier_versions_are_read(tmp_path):
    values = {"step": 3, "loss": 0.125, "validation/ndcg@10": 1.0}
    line = to_line(values)
    assert json.loads(line).items() >= values.items()
    (tmp_path / "metrics.jsonl").write_text(json.dumps(values) + "\n" + line + "\n")
    assert [found for _, found in read_lines(tmp_path / "metrics.jsonl")] == [values, values]


def test_report_names_what_it_leaves_out(run):
    (run / "eval" / "test").mkdir(parents=True)
    (run / "eval" / "test" / "metrics.json").write_text('{"split": "te')
    with pytest.raises(
        UserError, match=r"nothing can be shown: '.*metrics.json' cannot be read .*: evaluate again"
    ):
        find([run])


def test_what_a_kill_leaves_before_a_run_has_begun_does_not_spoil_the_folder(
    run, small_data, tmp_path
):
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("paths.json", "seen.parquet", "trained.parquet", "data.json"):
        shutil.copy(run / name, begun / name)
    (begun / "checkpoints").mkdir()
    (begun / ".config.toml.partial").write_text("[mo")
    (begun / ".lock").touch()
    check_same_run(RunFolder(begun), CONFIG, PreparedData(small_data))
    shutil.copytree(run / "checkpoints", begun / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"config.toml' is missing: put it back"):
        check_same_run(RunFolder(begun), CONFIG, PreparedData(small_data))
