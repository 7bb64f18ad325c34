"""Settings that are too large for anything are refused at once, by name; TOML of any text is read or refused."""

import time

import pytest

from torchrec_priors.common.amounts import in_bytes, memory_of_process
from torchrec_priors.common.machine import total_memory
from torchrec_priors.common.toml_text import NoTomlError, TomlError, parse_toml
from torchrec_priors.config import parse, read_override, with_changes
from torchrec_priors.errors import UserError


@pytest.mark.parametrize(
    "override",
    [
        "encoder.layers=100000",
        "model.context=1000000000",
        "model.dim=99999999996",
        "model.horizon=1000000",
        "training.batch=1000000000000000",
        "training.workers=100000",
        "training.prefetch=1000000",
        "training.timeout_seconds=1e300",
        "negatives.per_set=100000000000000000000000",
        "negatives.popularity=1e200",
        "encoder.dropout=nan",
        "loss.gate=1e400",
        'baseline={name="comirec", options={iterations=inf}}',
    ],
)
def test_a_setting_that_is_too_large(override):
    key, value = read_override(override)
    before = time.perf_counter()
    with pytest.raises(UserError, match=key.split("=")[0]):
        with_changes({}, [(key, value)])
    assert time.perf_counter() - before < 5


def test_settings_of_real_work_are_no_mistake():
    parse(
        {
            "model": {"dim": 256, "context": 8192},
            "training": {"batch": 4096},
            "encoder": {"layers": 64, "heads": 64},
        }
    )


@pytest.mark.parametrize(
    "text",
    [
        f"a = {'[' * 5000}{']' * 5000}",
        f"a = {'{a=' * 300}1{'}' * 300}",
        f"a = {'9' * 5000}",
        f"a = {'[' * 30}{']' * 30}",
    ],
)
def test_toml_that_means_nothing(text):
    with pytest.raises(TomlError):
        parse_toml(text)
    with pytest.raises(UserError, match=r"model\.dim"):
        read_override(f"model.dim={text.removeprefix('a = ')}")


def test_text_that_is_no_toml():
    with pytest.raises(NoTomlError):
        parse_toml("a = ")


def test_a_key_of_thousands_of_sections():
    with pytest.raises(UserError, match="unknown configuration key"):
        with_changes({}, [("a." * 5000 + "b", 1)])


def test_a_section_that_is_none():
    with pytest.raises(UserError, match=r"'model' = 'x': it must be a section, \[model\]"):
        with_changes({"model": "x"}, [("model.dim", 8)])


def test_amounts_beyond_any_machine():
    for amount in ("9" * 400 + "GB", "9" * 30 + "GB", "0.0001KB"):
        with pytest.raises(UserError, match="--memory"):
            in_bytes(amount)
    for amount in (f"{total_memory() // 10**9 + 1}GB", "1kb"):
        with pytest.raises(UserError, match="--memory"):
            memory_of_process(amount)
    assert memory_of_process("100MB") == 10**8


def test_a_container_has_what_its_limit_says(tmp_path):
    limit, endless = tmp_path / "limit", tmp_path / "max"
    limit.write_text("1000000\n")
    endless.write_text("max\n")
    assert total_memory([str(limit), str(endless)]) == 1_000_000
    assert total_memory([str(tmp_path / "none")]) == total_memory([])
