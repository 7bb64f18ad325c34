"""Positives of paths equal the raw files', decide the heads there are, and are kept with the run."""

import collections
import json
import re
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from edited_manifest import edit
from small_movielens import read_sequences

from torchrec_priors import load_run
from torchrec_priors.apps import evaluate
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.ranks.process import join
from torchrec_priors.ranks.share import Share
from torchrec_priors.settings.priors import PriorsConfig
from torchrec_priors.training import build, model_parts
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.origin import read_origin, write_origin
from torchrec_priors.training.run.paths import count_positives
from torchrec_priors.training.warm_start import start_from

HORIZON, E = 4, 8
SETTINGS = tiny.settings(
    model={"context": 10, "horizon": HORIZON},
    negatives={"per_set": 10},
    training={"steps": 2},
)
TREE = ["temporal:2", "rating", "gender"]


def _config(**priors):
    return parse(tiny.merged(SETTINGS, priors={"tree": TREE, **priors}))


@pytest.fixture(scope="module")
def data(small_data):
    return PreparedData(small_data)


@pytest.fixture(scope="module")
def counts(small_raw):
    """Training positives by (segment, rating, gender) and below, and by (path, offset)."""
    people = [line.split("|") for line in (small_raw / "u.user").read_text().splitlines()]
    gender = {int(person[0]): person[2] for person in people}
    found = collections.Counter()
    for user, ratings in read_sequences(small_raw, E).items():
        for index, rating in enumerate(ratings[: -2 * E]):
            for offset in range(1, min(index, HORIZON) + 1):
                stars = f"{rating.stars} star{'s' if rating.stars > 1 else ''}"
                way = ["short-term" if offset <= 2 else "long-term", stars, gender[user]]
                found.update({*way, *(" / ".join(way[:depth]) for depth in (2, 3))})
                found.update((" / ".join(way[:depth]), offset) for depth in (1, 2, 3))
                found.update((part, offset) for part in way[1:])
    return found


@pytest.mark.parametrize("composition", ["hierarchical", "additive"])
def test_positives_are_counted_from_items_events_and_users(composition, data, counts):
    tree = load_tree(PriorsConfig(tree=TREE, composition=composition), data, HORIZON)
    shares = [
        count_positives(tree, data, HORIZON, Share(rank, 3), data.lengths - 2 * E)[:-1]
        for rank in range(3)
    ]
    found = {path.name: count for path, count in zip(tree.paths, sum(shares).tolist(), strict=True)}
    expected = {
        path.name: [counts[path.name, offset] for offset in range(1, HORIZON + 1)]
        for path in tree.paths
    }
    assert found == expected
    assert all(sum(of_T) for of_T in expected.values()), (
        "a head without users: 'no gender' has none"
    )


@pytest.fixture(scope="module")
def run(data, counts, tmp_path_factory):
    """A run in which some paths, but no whole segment, have too few positives."""
    folder, minimum = (
        tmp_path_factory.mktemp("paths") / "run",
        counts["short-term / 5 stars / F"] + 1,
    )
    return folder, minimum, tiny.train(_config(min_positives=minimum), data, folder)


def test_a_run_remembers_its_paths_and_has_no_adapters_for_those_with_too_few_positives(
    run, counts
):
    folder, minimum, summary = run
    recorded = json.loads((folder / "paths.json").read_text())
    records = recorded["paths"]
    assert recorded["targets"] == sum(record["positives"] for record in records), (
        "every target has one path here"
    )
    names = [
        name for name in counts if isinstance(name, str) and name.split(" / ")[0].endswith("-term")
    ]
    kept = {name for name in names if counts[name] >= minimum}
    for record in records:
        way = record["name"].split(" / ")
        above = [" / ".join(way[:depth]) for depth in (1, 2, 3)]
        assert record["positives"] == counts[record["name"]] == sum(record["positives_by_offset"])
        last = [name for name in above if name in kept]
        assert record["backed_off_to"] == (None if last == above else (last or [""])[-1])
    assert {record["backed_off_to"] is None for record in records} == {True, False}
    assert summary["parameters"]["heads"] == len(kept) * 8 * 8 + (2 + 5) * 8
    assert summary["paths"] == len(records)


def test_whoever_loads_a_run_reads_its_paths_and_not_the_log(run, data, monkeypatch, capsys):
    folder, minimum, _ = run
    monkeypatch.setattr(
        model_parts, "count_positives", lambda *_: pytest.fail("the log was read again")
    )
    evaluate.evaluate(folder, evaluate.Split.test)
    with load_run(folder) as loaded:
        assert len(loaded.recommend(user=9)) == 10
    tiny.train(_config(min_positives=minimum), data, folder)  # goes on where it was
    assert "on test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: file.unlink(), "paths.json' is missing: put it back, or train again"),
        (
            lambda file: file.write_text('{"paths": [{}]}'),
            "paths.json' is damaged (it does not match its checksum)",
        ),
    ],
    ids=["missing", "damaged"],
)
def test_a_run_whose_paths_are_lost_is_explained(run, change, says, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    change(tmp_path / "run" / "paths.json")
    with pytest.raises(UserError, match=re.escape(says)):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"paths": [{}]}', "paths.json' is not what train writes (KeyError: 'name'): train again"),
        (
            '{"targets": 1, "paths": []}',
            "paths.json lists other prior paths than the run's data and",
        ),
    ],
    ids=["broken", "others"],
)
def test_paths_of_an_earlier_version_have_no_checksum_and_are_looked_at(run, text, says, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    origin = read_origin(tmp_path / "run" / "data.json")
    write_origin(tmp_path / "run" / "data.json", replace(origin, files={}))
    (tmp_path / "run" / "paths.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        load_run(tmp_path / "run")


def test_users_are_served_by_the_heads_of_their_own_groups(run, small_raw):
    people = [line.split("|") for line in (small_raw / "u.user").read_text().splitlines()]
    gender = {int(person[0]): person[2] for person in people}
    of_own = set()
    with load_run(run[0]) as loaded:
        for user in range(6, 16):
            for found in loaded.recommend(user=user, k=3):
                assert {head.split(" / ")[2] for head in [found.head, *found.head_scores]} == {
                    gender[user]
                }
        for found in loaded.recommend(history=[7, 8, 9], k=30):
            of_own |= {head.split(" / ")[2] for head in found.head_scores}
    assert of_own == {"M", "F"}, "a history of one's own may use all heads"


def test_88_heads_cost_d_squared_each(data, tmp_path):
    priors = {"tree": ["temporal:8", "random:11"], "min_positives": 0}
    config = parse(tiny.merged(SETTINGS, model={"horizon": 8}, priors=priors))
    summary = tiny.train(config, data, tmp_path / "run")
    assert summary["paths"] == 88
    assert summary["parameters"]["heads"] == (8 + 88) * 8**2 + 8 * 8


def test_a_tree_above_the_budget_leaves_the_folder_free(data, tmp_path):
    says = (
        "20 paths have 2,104 parameters at model.dim = 8, more than priors.max_parameters = 2,000:"
        " use fewer or coarse"
    )
    with pytest.raises(UserError, match=re.escape(says)):
        tiny.train(_config(max_parameters=2000), data, tmp_path / "run")
    tiny.train(_config(max_parameters=3000), data, tmp_path / "run")


def test_a_prior_that_needs_events_of_a_log_without_any_is_named(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    edit(tmp_path / "data", events=[])
    (tmp_path / "mine.py").write_text(
        "from torchrec_priors.priors.temporal import TemporalPrior\n\n"
        "class Mine(TemporalPrior):\n    name = 'mine'\n    needs = ('events',)\n\n"
        "def load(argument, data, horizon):\n    return Mine(2, horizon)\n"
    )
    with pytest.raises(
        UserError, match="'mine' needs events, and data set 'movielens' has no event types"
    ):
        tiny.train(_config(tree=[f"{tmp_path}/mine.py"]), tmp_path / "data", tmp_path / "run")


@pytest.mark.parametrize("composition", ["multiplicative", "additive"])
@pytest.mark.parametrize("adapters", ["matrix", "vector"])
def test_every_composition_trains_serves_and_starts_another(composition, adapters, data, tmp_path):
    config = _config(composition=composition, adapters=adapters)
    tiny.train(config, data, tmp_path / "run")
    with load_run(tmp_path / "run") as loaded:
        (best,) = loaded.recommend(user=9, k=1)
        assert best.head in loaded.heads
        old = {name: value.clone() for name, value in loaded.model.heads.named_parameters()}
        assert any(value.any() for value in old.values())
    with join() as ranks:
        other = replace(config, seed=1)
        built = build.build_model(other, data, ranks)
        start_from(RunFolder(tmp_path / "run"), built, other, data, ranks)
        for name, value in built.model.heads.named_parameters():
            assert torch.equal(value, old[name]), name


def test_a_gate_with_nothing_to_decide_says_so(data, tmp_path, caplog):
    values = tiny.merged(SETTINGS, priors={"tree": ["temporal:2"]}, loss={"gate": 1.0})
    tiny.train(parse(values), data, tmp_path / "run")
    assert "loss.gate has no effect: no level of priors.tree restricts items" in caplog.text
