"""A configuration is a TOML file plus overrides; what it cannot mean is refused in a line naming the key."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.config import keys, load_config, parse
from torchrec_priors.errors import UserError
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


def _value(config: RunConfig, key: str):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _other(key: str, value):
    """Another valid value of a key."""
    if key == "sharding.tables":
        return {"item": {"type": "column_wise"}}
    if isinstance(value, dict):
        return {**value, "width": 3}
    texts = {
        "model.score": ("dot", "cosine"),
        "training.precision": ("fp32", "bf16"),
        "training.balance": ("length", "none"),
        "training.pipeline": ("auto", "plain"),
        "model.size": ("", "paper-1"),
        "priors.composition": ("hierarchical", "additive"),
        "priors.adapters": ("matrix", "vector"),
        "loss.softmax": ("in_group", "joint"),
        "encoder.backbone": ("hstu", "/mine.py"),
        "baseline.name": ("", "/mine.py"),
        "plain.name": ("", "ease"),
        "evaluation.fusion": ("max", "mean"),
        "embedding.unseen": ("own", "dropped"),
        "embedding.content": ("", "text"),
        "items.encoder": ("", "llm"),
        "items.content": ("", "text"),
        "items.tuning": ("whole", "lora"),
        "items.llm.folder": ("", "/mine/llm"),
        "embedding.eviction": ("distance_lfu", "lru"),
        "evaluation.tiles": ("fp32", "int8"),
        "table.pretrained": ("", "/mine/vectors.parquet"),
        "encoder.llm.folder": ("", "/mine/llm"),
        "sharding.type": ("row_wise", "auto"),
        "sharding.kernel": ("auto", "fused"),
        "sharding.plan": ("", "/mine/sharding.json"),
        "sharding.communication": ("fp32", "fp16"),
    }
    if key in texts:
        return next(text for text in texts[key] if text != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, "genre"]
    return 2 * value or 32 if isinstance(value, int) else value / 2 or 0.5


_NOT_ALONE = (
    "model.size",
    "training.batch_tokens",
    "sharding.plan",
    "encoder.llm.folder",
    "encoder.llm.config",
    "embedding.ids",
    "embedding.id_dropout",
    "negatives.near_duplicates",
    *(key for key in keys() if key.startswith("items.")),
)  # change others, or need another change


ITEM_LLM = {"items.encoder": "llm", "items.content": "tokens", "items.llm.folder": "/llm"}


def _nested(flat: dict) -> dict:
    values: dict = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return values


def _refused(call, *arguments) -> str:
    """The message of a UserError: one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


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
    found = _value(load_config(write("[priors]\ntree = ['genre']\n"), [override]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("override", ["model.dim", "seed", ""])
def test_an_override_without_a_value_is_refused(override, write):
    assert f"'{override}' is not an override: write key=value" in _refused(
        load_config, write(""), [override]
    )


@pytest.mark.parametrize(
    "override", ["model.dim=64\nseed = 3", "model.dim=64\n[loss]\ngamma = 0.5"]
)
def test_an_override_of_several_lines_is_refused_not_cut_short(override, write):
    _refused(load_config, write(""), [override])


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
    message = _refused(load_config, write(text))
    assert message == f"unknown configuration key '{key}': did you mean '{near}'?"


@pytest.mark.parametrize(("key", "near"), UNKNOWN)
def test_an_unknown_key_of_an_override_names_the_nearest(key, near, write):
    message = _refused(load_config, write("[model]\ndim = 32\n"), [f"{key}=1"])
    assert message == f"unknown configuration key '{key}': did you mean '{near}'?"


@pytest.mark.parametrize("text", ["", "seed = 1\n[model]\ndim = 64\n"])
@pytest.mark.parametrize(
    "override", ["modle.dim=64", "seed.value=1", "model.dim.size=3", "=3", "model.=3", ".dim=3"]
)
def test_an_override_that_leads_nowhere_is_refused(override, text, write):
    """Whether or not the file has the key on the way."""
    message = _refused(load_config, write(text), [override])
    assert "configuration key" in message
    assert override.split("=")[0].split(".")[0] in message


def test_a_key_that_is_far_from_all_lists_the_valid_ones(write):
    message = _refused(load_config, write("xyzzy = 1\n"))
    assert "unknown configuration key 'xyzzy': valid: " in message
    assert all(key == "seed" or f"{key.partition('.')[0]}.*" in message for key in keys())
    message = _refused(load_config, write("[encoder]\nxyzzyxyzzyxyzzyxyzzy = 1\n"))
    assert all(key in message for key in keys() if key.startswith("encoder."))


def test_an_unknown_key_is_named_before_a_wrong_value(write):
    assert "'model.colour'" in _refused(load_config, write("[model]\ndim = 'wide'\ncolour = 1\n"))


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
    assert f"configuration key '{key}" in _refused(load_config, write(""), [f"{key}={text}"])
    *section, name = key.split(".")
    file = write((f"[{section[0]}]\n" if section else "") + f"{name} = {text}\n")
    assert f"configuration key '{key}" in _refused(load_config, file)


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "seed=2147483648",
        "model.dim=0",
        "model.dim=66",
        "model.context=0",
        "model.horizon=0",
        "encoder.heads=3",
        "encoder.heads=0",
        "encoder.layers=0",
        "encoder.dropout=1.0",
        "encoder.dropout=-0.1",
        "negatives.per_set=0",
        "negatives.popularity=-0.1",
        "negatives.catalogue_share=-0.1",
        "negatives.catalogue_share=1.1",
        "negatives.catalogue_share=0.0001",
        "negatives.catalogue_share=0.9999",
        "loss.gamma=0.0",
        "loss.gamma=1.1",
        "loss.balance=-0.1",
        "loss.balance=1.1",
        "table.learning_rate=-1.0",
        "table.init_std=-1.0",
        "training.batch=0",
        "training.batch=-1",
        "training.batch_tokens=-1",
        "training.balance=neither",
        "training.steps=0",
        "training.evaluate_every=0",
        "training.log_every=0",
        "training.shuffled_row_groups=0",
        "training.learning_rate=-0.1",
        "training.weight_decay=-0.1",
        "training.patience=-1",
        "training.workers=-1",
        "training.prefetch=-1",
        "training.checkpoint_seconds=-1.0",
        "training.warmup=1.0",
        "training.warmup=-0.1",
        "training.clip_norm=0.0",
        "evaluation.batch=0",
        "evaluation.normaliser_rows=-1",
        "evaluation.normaliser_rows=31",
        "loss.gate=-0.1",
        "priors.min_positives=-1",
    ],
)
def test_a_value_out_of_its_range_names_the_key(override, write):
    key = override.split("=")[0]
    assert key in _refused(load_config, write(""), [override])


def test_what_was_met_is_not_left_untold_where_it_may_be_recommended(write):
    both = ["negatives.seen=false", "evaluation.filter_seen=false"]
    message = _refused(load_config, write(""), both)
    assert message.startswith("negatives.seen = false")
    assert "set evaluation.filter_seen = true, or negatives.seen = true" in message
    for one in both:
        load_config(write(""), [one])


def test_a_batch_is_a_number_of_windows_or_a_budget_of_tokens(write):
    both = ["training.batch=8", "training.batch_tokens=900"]
    assert _refused(load_config, write(""), both) == (
        "training.batch = 8 and training.batch_tokens = 900: give one of the two, with the other 0"
    )
    assert (
        load_config(
            write(""), ["training.batch=0", "training.batch_tokens=900"]
        ).training.batch_tokens
        == 900
    )


_FLOATS = [key for key in keys() if isinstance(_value(RunConfig(), key), float)]


@pytest.mark.parametrize("key", _FLOATS)
def test_a_number_that_is_none_is_refused(key, write):
    """NaN passes every comparison with a bound that is written as the mistake, and spoils the run later."""
    assert key in _refused(load_config, write(""), [f"{key}=nan"])


@pytest.mark.parametrize(
    "key",
    ["table.learning_rate", "table.init_std", "training.learning_rate", "training.weight_decay"],
)
def test_an_infinite_rate_is_refused(key, write):
    assert key in _refused(load_config, write(""), [f"{key}=inf"])


@settings(deadline=None, max_examples=30)
@given(st.sets(st.sampled_from([key for key in keys() if key not in _NOT_ALONE])))
def test_what_is_written_as_toml_is_read_as_the_same(tmp_path_factory, changed):
    if "plain.options" in changed:
        changed.add("plain.name")
    if "plain.name" in changed:
        changed -= {
            "priors.tree", "evaluation.calibrated", "evaluation.fusion", "embedding.content",
            "baseline.name", "baseline.options", "baseline.interests",
        }  # fmt: skip
    if "repeats.time_bias" in changed:
        changed.add("repeats.weight")
    if "repeats.weight" in changed:
        changed.add("negatives.seen")
        changed -= {key for key in changed if key.startswith(("baseline.", "plain."))}
    if changed & {"baseline.options", "baseline.interests"}:
        changed.add("baseline.name")
    if "baseline.name" in changed:
        changed.discard("priors.tree")
    if "negatives.seen" in changed:
        changed.discard("evaluation.filter_seen")
    config = parse(_nested({key: _other(key, _value(RunConfig(), key)) for key in changed}))
    assert {key for key in keys() if _value(config, key) != _value(RunConfig(), key)} == changed
    file = tmp_path_factory.getbasetemp() / "round-trip.toml"
    file.write_text(config.to_toml(), encoding="utf8")
    again = load_config(file)
    assert again == config
    assert again.sha256() == config.sha256()
    assert (again.sha256() == RunConfig().sha256()) == (not changed)


def test_the_checksum_changes_with_any_value():
    beside = {"training.batch_tokens": {"training.batch": 0}, "baseline.options": {"baseline.name": "/my_own.py"},
              "plain.options": {"plain.name": "popularity"}, "repeats.weight": {"negatives.seen": False},
              "repeats.time_bias": {"repeats.weight": 1.0, "negatives.seen": False},
              "baseline.interests": {"baseline.name": "/my_own.py"},
              "embedding.ids": {"embedding.content": "text", "embedding.unseen": "content"},
              "embedding.id_dropout": {"embedding.content": "text"},
              "negatives.near_duplicates": {"model.score": "cosine"},
              "items.encoder": {"items.content": "other", "items.llm.folder": "/llm"},
              **{key: ITEM_LLM for key in keys() if key.startswith("items.") and key != "items.encoder"},
              "encoder.llm.folder": {"encoder.backbone": "llm"},
              "encoder.llm.config": {"encoder.backbone": "llm", "encoder.llm.folder": "/llm"}}  # fmt: skip
    changed = [
        parse(_nested({**beside.get(key, {}), key: _other(key, _value(RunConfig(), key))})).sha256()
        for key in keys()
    ]
    assert len({*changed, RunConfig().sha256()}) == len(keys()) + 1


def test_the_checksum_follows_from_values_not_from_how_they_are_written(write):
    one = load_config(write("[loss]\ngamma = 1\n[model]\ndim = 32\n")).sha256()
    other = load_config(
        write("model.dim = 0x20 # hexadecimal\nloss.gamma = 1.0\nseed = 0\n")
    ).sha256()
    assert one == other


def test_a_missing_file_is_named(tmp_path):
    assert (
        _refused(load_config, tmp_path / "no.toml")
        == f"--config: there is no file '{tmp_path / 'no.toml'}'"
    )
    assert str(tmp_path) in _refused(load_config, tmp_path), "a folder"


@pytest.mark.parametrize(
    "content", [b"model = ", b"[model\n", b"seed = 1\nseed = 2\n", b"\xff\xfe", b"seed: 1\n"]
)
def test_a_file_that_is_no_toml_is_named(content, tmp_path):
    (tmp_path / "run.toml").write_bytes(content)
    assert f"--config: {tmp_path / 'run.toml'} is not valid TOML: " in _refused(
        load_config, tmp_path / "run.toml"
    )


def test_a_size_of_the_paper_fills_what_is_not_given():
    config = parse({"model": {"size": "paper-3"}, "encoder": {"dropout": 0.0}})
    assert (
        config.model.dim,
        config.encoder.layers,
        config.encoder.heads,
        config.encoder.dropout,
    ) == (512, 12, 8, 0.0)
    assert parse(tomllib.loads(config.to_toml())) == config
    with pytest.raises(UserError, match=r"model\.size = 'paper-5'"):
        parse({"model": {"size": "paper-5"}})


def test_checksums_of_neural_models_are_those_of_releases_without_plain_baselines():
    assert "[plain]" not in RunConfig().to_toml_for_checksums()
    assert "[plain]" in parse({"plain": {"name": "ease"}}).to_toml_for_checksums()


def test_checksums_are_those_of_releases_without_a_repeat_head():
    with_head = {"repeats": {"weight": 1.0}, "negatives": {"seen": False}}
    assert "[repeats]" not in RunConfig().to_toml_for_checksums()
    assert "[repeats]\nweight = 1.0\n\n" in parse(with_head).to_toml_for_checksums()
    with_bias = {**with_head, "repeats": {"weight": 1.0, "time_bias": True}}
    assert "[repeats]\nweight = 1.0\ntime_bias = true\n" in parse(with_bias).to_toml_for_checksums()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"negatives": {"seen": True}}, "set negatives.seen=false"),
        ({"baseline": {"name": "mind"}}, "has no repeat head: set repeats.weight=0"),
        ({"plain": {"name": "ease"}}, "give repeats.weight=0"),
    ],
)
def test_settings_that_do_not_go_with_a_repeat_head(other, says):
    with_head = {"repeats": {"weight": 1.0}, "negatives": {"seen": False}}
    parse(with_head)
    assert says in _refused(parse, {**with_head, **other})


def test_without_a_repeat_head_its_time_bias_means_nothing():
    without = parse({"repeats": {"weight": 0.0, "time_bias": True}})
    assert not without.repeats.needs_times
    assert without.sha256() == RunConfig().sha256()


@pytest.mark.parametrize(
    "other",
    [
        {"priors": {"tree": ["genre"]}},
        {"baseline": {"name": "mind"}},
        {"evaluation": {"calibrated": True}},
        {"evaluation": {"fusion": "mean"}},
    ],
)
def test_a_plain_baseline_has_no_heads(other):
    assert "plain.name = 'ease' has no heads" in _refused(
        parse, {"plain": {"name": "ease"}, **other}
    )


def test_options_of_a_plain_baseline_need_its_name():
    assert "plain.name" in _refused(parse, {"plain": {"options": {"l2": 1}}})
