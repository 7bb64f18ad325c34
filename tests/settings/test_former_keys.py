"""A key's former name is read wherever configurations are; the present one is written; checksums stay."""

import hashlib
import json
import re
import tomllib

import pytest
import tomli_w

from torchrec_priors.config import load_config, parse, with_changes
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.matrix import Cell, flat
from torchrec_priors.experiments.search.trials import Trial
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.run.config_file import read_config, read_values, write_config

HIDDEN = parse({"negatives": {"seen": False}})


def _with_former_name(text: str) -> str:
    return re.sub(r"^seen = ", "met = ", text, flags=re.MULTILINE)


def test_the_former_name_is_read_from_files_and_overrides(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[negatives]\nmet = false\n")
    assert load_config(file) == HIDDEN
    assert load_config(file, ["negatives.seen=true"]) == RunConfig()
    file.write_text("")
    assert load_config(file, ["negatives.met=false"]) == HIDDEN
    assert load_config(file, ["negatives={met=true}", "negatives.seen=false"]) == HIDDEN
    file.write_text("[negatives]\nseen = true\n")
    assert load_config(file, ["negatives.met=false"]) == HIDDEN


def test_both_names_at_once_are_rejected():
    with pytest.raises(UserError, match=r"'negatives\.met' and 'negatives\.seen' are the same"):
        parse({"negatives": {"met": False, "seen": True}})


def test_the_present_name_is_written():
    assert tomllib.loads(HIDDEN.to_toml())["negatives"]["seen"] is False
    assert "met = " not in HIDDEN.to_toml()


def test_a_run_of_an_earlier_release_is_the_same_run(tmp_path):
    write_config(tmp_path / "new.toml", HIDDEN, "ab" * 16)
    text = _with_former_name(HIDDEN.to_toml()) + f"# Of run {'ab' * 16}\n"
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "old.toml").write_text(
        f"{text}# Not to be edited: sha256 of the lines above is {checksum}\n"
    )
    old, new = (
        read_config(tmp_path / name, signed=True, run_id="ab" * 16)
        for name in ("old.toml", "new.toml")
    )
    assert old == new == HIDDEN
    assert old.sha256() == new.sha256()
    values = read_values(tmp_path / "old.toml", signed=True)
    assert values["negatives"]["seen"] is False
    assert "met" not in values["negatives"]


def test_checksums_are_those_of_earlier_releases():
    for config in (RunConfig(), HIDDEN):
        values = tomllib.loads(_with_former_name(config.to_toml()))
        # Sections that earlier releases did not have count only if they are used.
        for later in ("plain", "repeats", "items"):
            del values[later]
        del values["loss"]["softmax"]
        del values["model"]["first_scale"]
        del values["training"]["products"]
        del values["negatives"]["near_duplicates"]
        del values["sharding"]["language_models"]
        for later in ("content", "ids", "id_dropout", "map_content"):
            del values["embedding"][later]
        del values["encoder"]["llm"]
        text = tomli_w.dumps(values)
        assert config.to_toml_for_checksums() == text
        assert config.sha256() == hashlib.sha256(text.encode()).hexdigest()
    assert RunConfig().sha256() == (
        "1c87cfd85311608a51d27ee4242d7068eb5bd1d7e94517b751154c4ef3345241"
    )


def test_experiments_read_the_former_name():
    assert flat({"negatives": {"met": False}}) == {"negatives.seen": False}
    assert flat({"negatives.met": False}) == {"negatives.seen": False}
    base = tomllib.loads(tomli_w.dumps({"negatives": {"met": True}}))
    assert with_changes(base, flat({"negatives.met": False}).items()) == HIDDEN


def test_trials_of_earlier_releases_are_found():
    cell = Cell("hidden or not", {}, "hidden or not")
    text = json.dumps({"negatives.met": False}, sort_keys=True)
    name = f"hidden or not {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    assert Trial.of(cell, 1, {"negatives.seen": False}).tried.name == name
