"""Configurations and experiments are found by name, and an unknown name lists what exists."""

import tomllib
from pathlib import Path

import pytest

from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.file import read_experiment
from torchrec_priors.settings import shipped
from torchrec_priors.settings.run_config import RunConfig

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = REPOSITORY / "torchx_configs/small.toml"


def test_a_name_is_the_file_of_the_repository():
    assert shipped.find_config("small", "--config") == SMALL
    assert shipped.config_names() == sorted(path.stem for path in SMALL.parent.glob("*.toml"))


def test_a_configuration_by_name_and_none():
    assert load_config("small") == load_config(SMALL)
    assert load_config("small", ["seed=7"]).seed == 7
    assert load_config(None) == RunConfig()
    assert load_config(None, ["model.dim=16"]).model.dim == 16


def test_an_unknown_name_is_answered_with_a_similar_one_or_all():
    with pytest.raises(UserError, match=r"--config: 'smal' is neither .*: did you mean 'small'\?$"):
        load_config("smal")
    with pytest.raises(UserError, match=r"--config: 'x' is neither .*: valid: .*, ml-1m, .*small$"):
        load_config("x")
    with pytest.raises(UserError, match=r"FILE: 'x' is neither .* figure-4, "):
        shipped.find_experiment("x", "FILE")


@pytest.mark.parametrize("path", ["small.toml", "here/small", "./small.toml"])
def test_a_path_is_no_name(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shipped.find_config(path, "--config") == Path(path)


def test_a_file_in_the_working_folder_comes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_text("seed = 5\n")
    assert load_config("small").seed == 5


def test_a_wheel_has_them_in_the_package(monkeypatch, tmp_path):
    inside = tmp_path / "configurations"
    inside.mkdir()
    (inside / "only.toml").write_text("seed = 9\n")
    monkeypatch.setattr(shipped, "_FOLDERS", (inside, tmp_path / "absent"))
    assert shipped.config_names() == ["only"]
    assert load_config("only").seed == 9

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["torchx_configs"] == "torchrec_priors/configurations"


def test_the_base_of_an_experiment_is_beside_it_or_shipped(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("config = 'small'\nseeds = [0]\n[cells.one]\n")
    assert read_experiment(file).config == str(SMALL)

    (tmp_path / "small").write_text("")
    assert read_experiment(file).config == str(tmp_path / "small")

    file.write_text("config = 'smal'\nseeds = [0]\n[cells.one]\n")
    with pytest.raises(UserError, match=r"mine\.toml: config: 'smal' is neither"):
        read_experiment(file)
