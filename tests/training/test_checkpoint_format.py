"""A checkpoint says its format: earlier ones are loaded, later ones are rejected in one line."""

import json
import shutil

import pytest
import tiny
import torch

from torchrec_priors.apps.train import train
from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.errors import UserError
from torchrec_priors.serving.run import load_run
from torchrec_priors.training.checkpoint import checkpoint, keys
from torchrec_priors.training.checkpoint.keys import FORMAT, MANIFEST, Progress
from torchrec_priors.training.checkpoint.manifest import format_of, read_manifest

CONFIG = tiny.config()


@pytest.fixture
def folder(trained, tmp_path):
    """A folder with a run, and its configuration `small.toml`."""
    folder = tmp_path / "folder"
    shutil.copytree(trained(CONFIG), folder / "run")
    (folder / "small.toml").write_text(CONFIG.to_toml())
    return folder


def _checkpoints(folder):
    return sorted((folder / "run" / "checkpoints").glob("step-*"))


def _as_format(folder, number):
    """Makes the checkpoints of the run ones of another format; format 1 has no number."""
    for place in _checkpoints(folder):
        values = read_json(place / MANIFEST, remedy="")
        if number == 1:
            content = json.dumps({"files": values["files"]}, indent=1) + "\n"
            (place / MANIFEST).write_text(content)
        else:
            write_json(place / MANIFEST, values | {"format": number})


def _weights(folder):
    with load_run(folder / "run") as run:
        return {name: tensor.clone() for name, tensor in run.model.named_parameters()}


def _assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_new_checkpoints_have_the_number_under_a_checksum(folder):
    for place in _checkpoints(folder):
        assert read_json(place / MANIFEST, remedy="")["format"] == FORMAT == format_of(place)
        assert "sha256" in json.loads((place / MANIFEST).read_text())
        assert len(read_manifest(place)) >= 2


def test_one_without_a_number_is_of_format_1_and_loads_the_same_bits(folder, small_data):
    expected = _weights(folder)
    _as_format(folder, 1)
    assert [format_of(place) for place in _checkpoints(folder)] == [1] * len(_checkpoints(folder))
    _assert_same(_weights(folder), expected)

    before = _checkpoints(folder)
    train(str(small_data), folder / "run", folder / "small.toml")
    assert _checkpoints(folder) == before, "nothing was put aside"
    _assert_same(_weights(folder), expected)


def test_a_later_format_is_rejected_in_one_line_and_nothing_is_touched(folder, small_data):
    _as_format(folder, FORMAT + 1)
    before = _checkpoints(folder)
    says = (
        rf"step-\d+' is of format {FORMAT + 1}, but this release reads only up to {FORMAT}: update"
    )
    commands = (
        lambda: train(str(small_data), folder / "run", folder / "small.toml"),
        lambda: load_run(folder / "run"),
        lambda: train(str(small_data), folder / "b", folder / "small.toml", folder / "run"),
    )
    for command in commands:
        with pytest.raises(UserError, match=says) as raised:
            command()
        assert "\n" not in str(raised.value)
    assert _checkpoints(folder) == before


def test_progress_of_an_earlier_format_leaves_the_rest_as_it_is():
    progress = Progress(1, 0.5, 1, 2)
    progress.load_state_dict(torch.tensor([7.0, 0.25], dtype=torch.float64))
    assert progress == Progress(7, 0.25, 1, 2)
    assert type(progress.step) is int
    copied = Progress()
    copied.load_state_dict(progress.state_dict())
    assert copied == progress


def test_a_part_that_a_later_format_adds_is_not_missed_in_earlier_checkpoints(
    folder, small_data, monkeypatch
):
    """The next release adds a part and a value of the progress."""

    class Extra:
        loaded = None

        def state_dict(self):
            return torch.zeros(2)

        def load_state_dict(self, state):
            self.loaded = state

    extra = Extra()
    parts_of = keys.parts_of
    monkeypatch.setattr(
        checkpoint, "parts_of", lambda *objects: parts_of(*objects) | {"extra": extra}
    )
    monkeypatch.setitem(keys.SINCE, "extra", FORMAT)
    longer = torch.tensor([0.0, -1.0, 0.0, 0.0, 9.0], dtype=torch.float64)
    monkeypatch.setattr(Progress, "state_dict", lambda _: longer.clone())

    _as_format(folder, 1)
    train(str(small_data), folder / "run", folder / "small.toml")
    assert extra.loaded is None

    _as_format(folder, FORMAT)
    with pytest.raises(UserError, match="cannot be loaded"):
        train(str(small_data), folder / "run", folder / "small.toml")
