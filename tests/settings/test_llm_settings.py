"""The section `encoder.llm`: the configuration of a folder travels with a run."""

import json

import pytest

from torchrec_priors.config import load_config, parse
from torchrec_priors.errors import UserError

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "architectures": ["Qwen2ForCausalLM"],
    "dtype": "bfloat16",
    "pad_token_id": None,
    "rope_parameters": {"rope_theta": 1e6, "factor": None},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    folder.joinpath("config.json").write_text(json.dumps(CONFIG))
    return folder


def _load(tmp_path, *overrides):
    file = tmp_path / "run.toml"
    file.write_text('[encoder]\nbackbone = "llm"\n')
    return load_config(file, overrides)


def test_the_configuration_of_a_folder_becomes_part_of_the_run(folder, tmp_path):
    config = _load(tmp_path, f"encoder.llm.folder={folder}", "encoder.llm.config.hidden_size=8")
    wanted = {"model_type": "qwen2", "hidden_size": 8, "rope_parameters": {"rope_theta": 1e6}}
    assert config.encoder.llm.config == wanted

    # The file of a run is all that is needed, even if the folder is gone.
    folder.joinpath("config.json").unlink()
    folder.rmdir()
    saved = tmp_path / "saved.toml"
    saved.write_text(config.to_toml())
    assert load_config(saved) == config


def test_the_checksum_of_other_backbones_is_that_of_earlier_releases():
    assert "llm" not in parse({}).to_toml_for_checksums()
    llm = parse({"encoder": {"backbone": "llm", "llm": {"config": {"model_type": "llama"}}}})
    assert "model_type" in llm.to_toml_for_checksums()


def test_heads_need_not_divide_the_width_of_items():
    llm = {"config": {"model_type": "llama"}}
    assert parse({"model": {"dim": 8}, "encoder": {"backbone": "llm", "heads": 3, "llm": llm}})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "needs encoder.llm.folder, or encoder.llm.config with at least a model_type"),
        (["encoder.llm.folder=nowhere"], "there is no '.*nowhere/config.json'"),
        (["encoder.llm.folder=s3://models/llm"], "encoder.llm.folder"),
        (["encoder.llm.foldr=x"], "'encoder.llm.foldr': did you mean 'encoder.llm.folder'"),
        (["encoder.llm=x"], "encoder.llm"),
        (
            ["encoder.backbone=hstu", "encoder.llm.config.model_type=llama"],
            'encoder.llm is for encoder.backbone = "llm"',
        ),
    ],
)
def test_mistakes_are_named(overrides, says, tmp_path):
    with pytest.raises(UserError, match=says):
        _load(tmp_path, *overrides)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": 3}'])
def test_a_folder_without_a_configuration_is_refused(text, folder, tmp_path):
    folder.joinpath("config.json").write_text(text)
    with pytest.raises(UserError, match=r"encoder.llm.folder: '.*config.json'"):
        _load(tmp_path, f"encoder.llm.folder={folder}")
