"""A configuration is a TOML file plus overrides; what it cannot mean is refused in a line naming the key."""

import dataclasses
from pathlib import Path

import pytest
from configurations import refused, value_of

from torchrec_priors.config import keys, load_config
from torchrec_priors.settings.run_config import RunConfig

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def write(tmp_path):
    """write(text) -> a TOML file."""

    def writer(text: str) -> Path:
        file = tmp_path / "run.toml"
        file.write_text(text, encoding="utf8")
        return file

    return writer


def test_an_empty_file_gives_the_defaults(write):
    assert load_config(write("")) == RunConfig()


@pytest.mark.parametrize(
    "file", sorted(REPOSITORY.glob("torchx_configs/*.toml")), ids=lambda file: file.name
)
def test_shipped_configurations_are_valid(file):
    load_config(file)


def test_keys_are_those_of_the_sections():
    fields = dataclasses.asdict(RunConfig())
    wanted = [
        f"{section}.{key}"
        for section, values in fields.items()
        if section != "seed"
        for key in values
    ]
    for inner in ("encoder.llm", "items.llm"):  # sections in sections
        place = wanted.index(inner)
        wanted[place : place + 1] = [f"{inner}.folder", f"{inner}.config"]
    assert keys() == ["seed", *wanted]


def test_overrides_win_over_the_file_and_the_last_over_the_others(write):
    file = write("seed = 3\n[model]\ndim = 32\ncontext = 20\n")
    config = load_config(file, ["model.dim=128", "seed=4", "seed=5"])
    assert (config.seed, config.model.dim, config.model.context) == (5, 128, 20)
    assert config == dataclasses.replace(
        RunConfig(), seed=5, model=dataclasses.replace(RunConfig().model, dim=128, context=20)
    )


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model.dim=128", "model.dim", 128),
        (" model.dim = 128", "model.dim", 128),
        ("encoder.dropout=0.5", "encoder.dropout", 0.5),
        ("encoder.dropout=0", "encoder.dropout", 0.0),
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("negatives.logq=true", "negatives.logq", True),
        ("model.score=cosine", "model.score", "cosine"),
        ('model.score="cosine"', "model.score", "cosine"),
        ("model.score='cosine'", "model.score", "cosine"),
        ('priors.tree=["temporal:4", "genre"]', "priors.tree", ["temporal:4", "genre"]),
        ("priors.tree=[]", "priors.tree", []),
        ('priors.tree=["a=b"]', "priors.tree", ["a=b"]),
    ],
)
def test_overrides_take_numbers_strings_and_lists(override, key, value, write):
    found = value_of(load_config(write("[priors]\ntree = ['genre']\n"), [override]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("override", ["model.dim", "seed", ""])
def test_an_override_without_a_value_is_refused(override, write):
    assert f"'{override}' is not an override: write key=value" in refused(
        load_config, write(""), [override]
    )


@pytest.mark.parametrize(
    "override", ["model.dim=64\nseed = 3", "model.dim=64\n[loss]\ngamma = 0.5"]
)
def test_an_override_of_several_lines_is_refused_not_cut_short(override, write):
    refused(load_config, write(""), [override])


UNKNOWN = [
    ("sede", "seed"),
    ("modle", "model"),
    ("model.dimm", "model.dim"),
    ("model.contex", "model.context"),
    ("training.learning_rte", "training.learning_rate"),
    ("encoder.drop_out", "encoder.dropout"),
    ("dim", "model.dim"),
]


@pytest.mark.parametrize(("key", "near"), UNKNOWN)
def test_an_unknown_key_of_a_file_names_the_nearest(key, near, write):
    text = f"{key} = 1\n" if "." not in key else "[{}]\n{} = 1\n".format(*key.split("."))
    message = refused(load_config, write(text))
    assert message == f"unknown configuration key '{key}': did you mean '{near}'?"


@pytest.mark.parametrize(("key", "near"), UNKNOWN)
def test_an_unknown_key_of_an_override_names_the_nearest(key, near, write):
    message = refused(load_config, write("[model]\ndim = 32\n"), [f"{key}=1"])
    assert message == f"unknown configuration key '{key}': did you mean '{near}'?"


@pytest.mark.parametrize("text", ["", "seed = 1\n[model]\ndim = 64\n"])
@pytest.mark.parametrize(
    "override", ["modle.dim=64", "seed.value=1", "model.dim.size=3", "=3", "model.=3", ".dim=3"]
)
def test_an_override_that_leads_nowhere_is_refused(override, text, write):
    """Whether or not the file has the key on the way."""
    message = refused(load_config, write(text), [override])
    assert "configuration key" in message
    assert override.split("=")[0].split(".")[0] in message


def test_a_key_that_is_far_from_all_lists_the_valid_ones(write):
    message = refused(load_config, write("xyzzy = 1\n"))
    assert "unknown configuration key 'xyzzy': valid: " in message
    assert all(key == "seed" or f"{key.partition('.')[0]}.*" in message for key in keys())
    message = refused(load_config, write("[encoder]\nxyzzyxyzzyxyzzyxyzzy = 1\n"))
    assert all(key in message for key in keys() if key.startswith("encoder."))


def test_an_unknown_key_is_named_before_a_wrong_value(write):
    assert "'model.colour'" in refused(load_config, write("[model]\ndim = 'wide'\ncolour = 1\n"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("seed", "'1'"),
        ("seed", "1.5"),
        ("seed", "true"),
        ("seed", "1979-05-27"),
        ("model.dim", "64.5"),
        ("model.dim", "[64]"),
        ("model.dim", "'64'"),
        ("model.score", "'euclid'"),
        ("model.score", "1"),
        ("encoder.dropout", "'0.1'"),
        ("encoder.dropout", "true"),
        ("negatives.logq", "1"),
        ("negatives.logq", "'true'"),
        ("priors.tree", "'genre'"),
        ("priors.tree", "[1]"),
        ("model", "3"),
        ("training", "[]"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_key(key, text, write):
    assert f"configuration key '{key}" in refused(load_config, write(""), [f"{key}={text}"])
    *section, name = key.split(".")
    file = write((f"[{section[0]}]\n" if section else "") + f"{name} = {text}\n")
    assert f"configuration key '{key}" in refused(load_config, file)


def test_a_missing_file_is_named(tmp_path):
    assert (
        refused(load_config, tmp_path / "no.toml")
        == f"--config: there is no file '{tmp_path / 'no.toml'}'"
    )
    assert str(tmp_path) in refused(load_config, tmp_path), "a folder"


@pytest.mark.parametrize(
    "content", [b"model = ", b"[model\n", b"seed = 1\nseed = 2\n", b"\xff\xfe", b"seed: 1\n"]
)
def test_a_file_that_is_no_toml_is_named(content, tmp_path):
    (tmp_path / "run.toml").write_bytes(content)
    assert f"--config: {tmp_path / 'run.toml'} is not valid TOML: " in refused(
        load_config, tmp_path / "run.toml"
    )
