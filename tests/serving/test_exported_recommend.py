"""An export recommends what the run recommends, with the same levers, lists and fusion."""

import shutil

import pytest
import tiny

from torchrec_priors import Levers, load_run
from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.serving import exported_search
from torchrec_priors.serving.export import export
from torchrec_priors.serving.exported import load_exported

HISTORIES = [[5, 50, 7], [8], list(range(30, 60))]
SETTINGS = tiny.settings(
    model={"context": 20},
    priors={"tree": ["temporal:2", "genre"]},
    negatives={"per_set": 10},
    table={"init_std": 1.0},
    training={"batch": 8, "steps": 3},
)
COMMUNITIES = """
import numpy as np
from torchrec_priors.priors.item import ItemPrior

def load(argument, data, horizon):
    rows = np.arange(data.items)
    return ItemPrior("community", ["c1", "c2", "c3"], rows, rows * 5 % 3, data.items)
"""
CALIBRATED = {"loss": {"gate": 1.0}, "evaluation": {"calibrated": True}}


@pytest.fixture
def both(trained, tmp_path):
    """Trains a run with some settings, and returns it with its export."""
    opened = []

    def of(run):
        out = tmp_path / f"out-{len(opened)}"
        loaded = load_run(run)
        opened.append(loaded)
        export(loaded, out)
        return loaded, load_exported(out)

    yield of
    for loaded in opened:
        loaded.close()


def _equal(found, expected):
    """Whether two answers are the same, except for rounding."""
    assert [item.item_id for item in found] == [item.item_id for item in expected]
    assert [item.title for item in found] == [item.title for item in expected]
    assert [item.head for item in found] == [item.head for item in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-5)
        assert one.head_scores == pytest.approx(other.head_scores, abs=2e-5)
        assert one.head_score == pytest.approx(other.head_score, abs=2e-5)
        assert one.reason == other.reason
    assert (found.source, found.short, found.skipped, found.score_name) == (
        expected.source,
        expected.short,
        expected.skipped,
        expected.score_name,
    )


def _recommends_the_same(loaded, exported, requests, histories=HISTORIES):
    for history in histories:
        for k, given in requests:
            expected = loaded.recommend(history, k=k, **given)
            _equal(exported.recommend(history, k, **given), expected)
            assert len(expected) > 0


LISTS = [
    (10, {}),
    (7, {"allow": range(1, 90), "deny": [11, 12, "no such item"]}),
]
LEVERS = [
    (10, {"levers": Levers(only=["Comedy", "Drama"], mute=["short-term"])}),
    (5, {"levers": Levers(boost={"long-term": 3.0, "Comedy": 0.5})}),
    (10, {"levers": Levers(at_least={"Drama": 0.5, "Comedy": 0.3})}),
    (6, {"levers": Levers(mute=["Drama"], at_least={"Comedy": 0.4}), "deny": [1, 2, 3, 4, 5, 6]}),
]


def test_max_fusion(run, both, monkeypatch):
    """Of an encoder with side features; the items are searched in several tiles."""
    monkeypatch.setattr(exported_search, "_TILE", 64)
    _recommends_the_same(*both(run), LISTS + LEVERS)


def test_calibrated_hierarchical_fusion_of_an_additive_tree(trained, both):
    priors = {"tree": ["temporal:2", "genre"], "composition": "additive"}
    settings = tiny.merged(SETTINGS, **CALIBRATED, priors=priors)
    settings = tiny.merged(settings, evaluation={"fusion": "hierarchical"})
    _recommends_the_same(*both(trained(parse(settings))), LISTS + LEVERS[1:3])


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "calibrated"])
@pytest.mark.parametrize("fusion", ["mean", "inverse_variance", "hierarchical", "max"])
@pytest.mark.parametrize(
    "priors",
    [
        {"tree": ["temporal:2", "genre"]},
        {"tree": ["gender", "temporal:2", "genre"], "composition": "additive"},
    ],
    ids=["hierarchical tree", "additive tree with users"],
)
def test_every_fusion(trained, both, priors, fusion, calibrated):
    settings = tiny.merged(SETTINGS, priors=priors)
    if calibrated:
        settings = tiny.merged(settings, **CALIBRATED)
    settings = tiny.merged(settings, evaluation={"fusion": fusion})
    _recommends_the_same(*both(trained(parse(settings))), LISTS + LEVERS[1:3])


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "calibrated"])
def test_a_joint_softmax(trained, both, tmp_path, calibrated):
    communities = tmp_path / "communities.py"
    communities.write_text(COMMUNITIES)
    settings = tiny.merged(
        SETTINGS,
        priors={"tree": ["gender", str(communities)], "init_std": 0.3},
        loss={"gate": 1.0, "softmax": "joint"},
        negatives={"logq": True},
        evaluation={"calibrated": calibrated},
    )
    _recommends_the_same(*both(trained(parse(settings))), LISTS)


@pytest.mark.slow
def test_items_without_vectors_and_negatives_that_were_seen(trained, both):
    settings = tiny.merged(
        SETTINGS,
        **CALIBRATED,
        embedding={"unseen": "dropped", "min_frequency": 12},
        negatives={"seen": True},
    )
    settings = tiny.merged(settings, evaluation={"fusion": "mean", "filter_seen": False})
    loaded, exported = both(trained(parse(settings)))
    ids = exported.item_ids.to_pylist()
    has_row = exported.has_row_I.tolist()
    with_vector = [item for item, has in zip(ids, has_row, strict=True) if has]
    without = [item for item, has in zip(ids, has_row, strict=True) if not has]
    history = [with_vector[5], without[0], with_vector[2], with_vector[9], without[1]]
    requests = [(10, {}), (2, {"allow": [*with_vector[:5], *without]})]
    _recommends_the_same(loaded, exported, requests, [history])


def test_mistakes_have_the_messages_of_the_run(run, both, tmp_path):
    loaded, exported = both(run)
    for k, given in (
        (10, {"levers": Levers(only=["Comdy"])}),
        (10, {"levers": Levers(only=["Comedy"], mute=["Comedy"])}),
        (10, {"levers": Levers(at_least={"short-term": 0.5})}),
        (10, {"allow": ["no such item"]}),
    ):
        with pytest.raises(UserError) as expected:
            loaded.recommend([5], k=k, **given)
        with pytest.raises(UserError) as error:
            exported.recommend([5], k, **given)
        assert str(error.value) == str(expected.value)
    with pytest.raises(UserError, match="k = 0 must be from 1 to the 150 items"):
        exported.recommend([5], 0)
    with pytest.raises(UserError, match="the export has no item 'x'"):
        exported.recommend(["x"])

    old = tmp_path / "old"
    shutil.copytree(tmp_path / "out-0", old)
    about = read_json(old / "export.json", remedy="")
    write_json(old / "export.json", {**about, "format": 1})
    with pytest.raises(UserError, match="is of format 1, not 2 or 3: export the run again"):
        load_exported(old)
