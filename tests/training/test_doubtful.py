"""Settings that are allowed, but make a model worse, are said when training starts; usual ones are silent."""

from types import SimpleNamespace

from torchrec_priors.config import parse
from torchrec_priors.training.doubtful import doubts

ONE_SET, SEVERAL = SimpleNamespace(item_sets=1), SimpleNamespace(item_sets=3)
GATED = {"loss": {"gate": 1.0}, "evaluation": {"calibrated": True}}


def _said(changes, tree=SEVERAL):
    return " ".join(doubts(parse(changes), tree))


def test_heads_for_groups_of_items_need_one_scale():
    assert "loss.gate=1 evaluation.calibrated=true" in _said({})
    assert not _said({}, ONE_SET)
    assert not _said(GATED)
    assert not _said({"model": {"score": "cosine"}})
    assert not _said({"loss": {"softmax": "joint"}, "negatives": {"logq": True}})


def test_a_repeat_head_is_used_only_if_seen_items_may_be_recommended():
    repeats = {"repeats": {"weight": 1.0}, "negatives": {"seen": False}}
    assert "evaluation.filter_seen=false" in _said(
        {**repeats, "evaluation": {"filter_seen": True}}, ONE_SET
    )
    assert not _said({**repeats, "evaluation": {"filter_seen": False}}, ONE_SET)
