"""Configurations in the paper's words."""

import pytest

from torchrec_priors.report.runs import with_defaults
from torchrec_priors.report.variant import Variant

KINDS = {"genre": "item", "crowd": "user", "graph8": "graph", "rating": "event"}


def _of(**changes):
    config = {
        "model.horizon": 8,
        "priors.tree": [],
        "encoder.backbone": "hstu",
        "evaluation.filter_seen": True,
    }
    config |= {key.replace("__", "."): value for key, value in changes.items()}
    return Variant.of(with_defaults(config), KINDS)


@pytest.mark.parametrize(
    ("tree", "horizon", "name", "role"),
    [
        ([], 1, "No prior", "HSTU"),
        ([], 8, "LT/ST_1", "+LT/ST"),
        (["temporal:4"], 8, "LT/ST_4", "+LT/ST"),
        (["genre"], 8, "LT/ST_1 + Item", "+Item"),
        (["genre"], 1, "Item", "+Item"),
        (["rating"], 1, "Event", "+Event"),
        (["temporal:2", "genre"], 8, "LT/ST_2 + Item (Hier)", "+Both"),
        (["temporal:8", "graph8"], 8, "LT/ST_8 + Graph (Hier)", "+Both"),
        (["temporal:1", "crowd"], 8, "LT/ST_1 + User (Hier)", "+User"),
        (["random:genre"], 8, "LT/ST_1 + Random", "+Random"),
        (["all:8"], 8, "LT/ST_1 + All", "+All"),
        (["/home/me/mine.py:4"], 8, "LT/ST_1 + own prior", "+own prior"),
    ],
)
def test_trees_of_priors(tree, horizon, name, role):
    variant = _of(priors__tree=tree, model__horizon=horizon)
    assert (variant.name, variant.role) == (name, role)
    assert variant.plain == (not tree)


def test_baseline_models_are_none_of_ours_whatever_says_so():
    for changes in (
        {"baseline__name": "comirec"},
        {"encoder__backbone": "sasrec"},
        {"encoder__backbone": "/a/gru.py"},
    ):
        variant = _of(**changes)
        assert variant.baseline_model
        assert not variant.ours
        assert not variant.plain
    assert _of(baseline__name="comirec").name == "ComiRec"
    assert _of(baseline__name="later").role == "later"
    assert _of(baseline__name="/home/me/mine.py").name == "mine"


def test_heads_on_another_backbone_have_its_name_too():
    heads = _of(encoder__backbone="llm", priors__tree=["temporal:2", "genre"], model__horizon=8)
    assert heads.name == "LLM: LT/ST_2 + Item (Hier)"
    assert _of(encoder__backbone="llm", model__horizon=8).name == "LLM"


def test_an_evaluation_that_ranks_again_is_not_the_model_of_one_head():
    assert _of(evaluation__diversify=0.0).plain
    variant = _of(evaluation__diversify=0.5)
    assert variant.adjusted
    assert not variant.plain
    assert _of(evaluation__fusion="mean", evaluation__batch=7).plain


def test_what_is_ablated():
    assert _of().in_group
    assert not _of(negatives__catalogue_share=1.0).in_group
    assert _of(loss__balance=0.0).balance == 0
