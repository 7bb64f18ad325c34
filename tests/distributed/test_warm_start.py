"""A run started from another: rows by original id, heads by name, whatever the numbering, on any number of ranks."""

import itertools
import shutil

import pytest
import tiny
import torch
from ranks import run_on_ranks
from small_movielens import read_ratings, write_ratings

from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.warm_start import start_from

SETTINGS = tiny.settings(
    model={"context": 10},
    encoder={"events": True, "item_features": ["release_date", "title"]},
    priors={"tree": ["temporal:2", "genre"]},
    loss={"gate": 1.0},
    training={"steps": 3, "evaluate_every": 3},
)


def _config(**sections):
    return parse(tiny.merged(SETTINGS, **sections))


def _values(built, data, ranks):
    """Everything by name: item vectors by title, features', heads' and the gate's by theirs, the rest by the
    parameter's."""
    tables = {}
    for name, own in built.tables.items():
        rows = torch.zeros(own.plan.table.rows, own.plan.table.columns)
        rows[own.first : own.last] = own.fetch().rows
        tables[name] = ranks.total(rows)
    ids = data.catalogue(["item_id"])["item_id"].to_pylist()
    found = {f"item {item}": row for item, row in zip(ids, tables["item"], strict=True)}
    titles = sorted(data.catalogue(["title"])["title"].to_pylist())
    found |= {
        f"title {text}": row for text, row in zip(titles, tables["feature_title"], strict=False)
    }  # the last is of no title
    for depth, weight in zip(built.depths, built.model.heads.adapters, strict=True):
        found |= {f"head {name}": value for name, value in zip(depth.names, weight, strict=True)}
    gate = built.model.gate
    decisions = torch.cat([gate.weight, gate.bias[:, None]], 1)
    found |= {
        f"gate {name}": value
        for name, value in zip(built.model.tree.item_set_names, decisions, strict=True)
    }
    dense = built.model.encoder.named_parameters()
    return {key: value.detach().clone() for key, value in [*found.items(), *dense]}


def _train(data, run):
    with join() as ranks:
        tiny.train(_config(), data, run)
        _, prepared, built = tiny.best(run, ranks)
        return _values(built, prepared, ranks)


def _start(data, run, *configs):
    """Values before and after, for each configuration."""
    data, values = PreparedData(data), []
    with join() as ranks:
        for config in configs:
            built = build_model(config, data, ranks)
            first = _values(built, data, ranks)
            start_from(RunFolder(run), built, config, data, ranks)
            values.append((first, _values(built, data, ranks)))
    return values


@pytest.fixture(scope="module")
def old(small_data, tmp_path_factory):
    run = tmp_path_factory.mktemp("old") / "run"
    return run, run_on_ranks(2, _train, small_data, run)[0]


@pytest.fixture(scope="module")
def later(small_raw, tmp_path_factory):
    """A later log: two new films, other popularities, other sizes of genres, and another permutation."""
    raw = tmp_path_factory.mktemp("later") / "raw"
    shutil.copytree(small_raw, raw)
    films = (raw / "u.item").read_text(encoding="latin-1").splitlines()
    flags = "|".join(["0"] * 10 + ["1"] + ["0"] * 8)
    films += [f"{film}|New {film}|01-Jan-1998||x|{flags}" for film in (501, 502)]
    (raw / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")
    ratings = read_ratings(raw)
    write_ratings(raw, [*ratings[::2], *ratings[1::4]])
    prepare(Settings("movielens", raw, 2, seed=5), raw.parent / "data")
    return raw.parent / "data"


SHARDINGS = [{}, {"type": "table_wise"}, {"type": "column_wise", "columns": 4}]


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3])
def test_what_has_the_same_name_has_the_old_value_and_the_rest_its_own_first_one(world, old, later):
    run, values = old
    configs = [_config(sharding=sharding) for sharding in SHARDINGS]
    for first, started in itertools.chain(*run_on_ranks(world, _start, later, run, *configs)):
        assert first.keys() == started.keys()
        for name, value in started.items():
            expected = values.get(name, first[name])
            assert torch.equal(value, expected), name
    new = started.keys() - values.keys()
    assert {"item 501", "item 502", "title New 501"} <= new
    assert any(name.startswith("head") and started[name].any() for name in started)


def test_other_sizes_are_named(old, later):
    with pytest.raises(
        Exception, match=r"encoder.position.weight is \[10, 8\] there and \[11, 8\] here"
    ):
        run_on_ranks(1, _start, later, old[0], _config(model={"context": 11}))


def test_a_run_without_a_checkpoint_is_no_start(small_data, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        RunFolder(tmp_path / "nothing").open()
