"""Ranges and rules between sections; what is written as TOML is read as the same, with the same checksum."""

import tomllib

import pytest
from configurations import refused, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_priors.config import keys, load_config, parse
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.search.best import nested
from torchrec_priors.settings.run_config import RunConfig


def _other(key: str, value):
    """Another valid value of a key."""
    if key == "sharding.tables":
        return {"item": {"type": "column_wise"}}
    if isinstance(value, dict):
        return {**value, "width": 3}
    texts = {
        "model.score": ("dot", "cosine"),
        "training.precision": ("fp32", "bf16"),
        "training.products": ("fp32", "bf16x3"),
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
    "embedding.map_content",
    "negatives.near_duplicates",
    *(key for key in keys() if key.startswith("items.")),
)  # change others, or need another change


ITEM_LLM = {"items.encoder": "llm", "items.content": "tokens", "items.llm.folder": "/llm"}


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
def test_a_value_out_of_its_range_names_the_key(override):
    key = override.split("=")[0]
    assert key in refused(load_config, None, [override])


def test_what_was_met_is_not_left_untold_where_it_may_be_recommended():
    both = ["negatives.seen=false", "evaluation.filter_seen=false"]
    message = refused(load_config, None, both)
    assert message.startswith("negatives.seen = false")
    assert "set evaluation.filter_seen = true, or negatives.seen = true" in message
    for one in both:
        load_config(None, [one])


def test_a_batch_is_a_number_of_windows_or_a_budget_of_tokens():
    both = ["training.batch=8", "training.batch_tokens=900"]
    assert refused(load_config, None, both) == (
        "training.batch = 8 and training.batch_tokens = 900: give one of the two, with the other 0"
    )
    assert (
        load_config(None, ["training.batch=0", "training.batch_tokens=900"]).training.batch_tokens
        == 900
    )


_FLOATS = [key for key in keys() if isinstance(value_of(RunConfig(), key), float)]


@pytest.mark.parametrize("key", _FLOATS)
def test_a_number_that_is_none_is_refused(key):
    """NaN passes every comparison with a bound that is written as the mistake, and spoils the run later."""
    assert key in refused(load_config, None, [f"{key}=nan"])


@pytest.mark.parametrize(
    "key",
    ["table.learning_rate", "table.init_std", "training.learning_rate", "training.weight_decay"],
)
def test_an_infinite_rate_is_refused(key):
    assert key in refused(load_config, None, [f"{key}=inf"])


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
    config = parse(nested({key: _other(key, value_of(RunConfig(), key)) for key in changed}))
    assert {key for key in keys() if value_of(config, key) != value_of(RunConfig(), key)} == changed
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
              "embedding.map_content": {"embedding.content": "text", "embedding.unseen": "content"},
              "negatives.near_duplicates": {"model.score": "cosine"},
              "items.encoder": {"items.content": "other", "items.llm.folder": "/llm"},
              **{key: ITEM_LLM for key in keys() if key.startswith("items.") and key != "items.encoder"},
              "encoder.llm.folder": {"encoder.backbone": "llm"},
              "encoder.llm.config": {"encoder.backbone": "llm", "encoder.llm.folder": "/llm"}}  # fmt: skip
    changed = [
        parse(
            nested({**beside.get(key, {}), key: _other(key, value_of(RunConfig(), key))})
        ).sha256()
        for key in keys()
    ]
    assert len({*changed, RunConfig().sha256()}) == len(keys()) + 1


def test_the_checksum_follows_from_values_not_from_how_they_are_written():
    one = tomllib.loads("[loss]\ngamma = 1\n[model]\ndim = 32\n")
    other = tomllib.loads("model.dim = 0x20 # hexadecimal\nloss.gamma = 1.0\nseed = 0\n")
    assert parse(one).sha256() == parse(other).sha256()


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
    assert says in refused(parse, {**with_head, **other})


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
    assert "plain.name = 'ease' has no heads" in refused(
        parse, {"plain": {"name": "ease"}, **other}
    )


def test_options_of_a_plain_baseline_need_its_name():
    assert "plain.name" in refused(parse, {"plain": {"options": {"l2": 1}}})
