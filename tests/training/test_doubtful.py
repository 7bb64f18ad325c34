"""Settings that are allowed, but make a model worse, are said when training starts; usual ones are silent."""

from types import SimpleNamespace

import pytest

from torchrec_priors.config import parse
from torchrec_priors.ops import in_group_softmax_native, native
from torchrec_priors.training import doubtful
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


@pytest.mark.parametrize("kind", ["fp32", "bf16x3", "bf16x1"])
def test_products_of_pieces_need_amx_and_a_compiler(kind, monkeypatch):
    changes = {"training": {"products": kind}}
    for able in (True, False):
        monkeypatch.setattr(doubtful, "can_multiply_pieces", lambda _, able=able: able)
        is_said = f"training.products={kind} changes nothing here" in _said(changes, ONE_SET)
        assert is_said == (kind != "fp32" and not able)


def test_without_a_compiler_no_pieces_are_multiplied(monkeypatch):
    monkeypatch.setenv("TORCHREC_PRIORS_NATIVE", "0")
    native.load_native.cache_clear()
    assert not in_group_softmax_native.can_multiply_pieces(64)
    native.load_native.cache_clear()


def test_pieces_need_whole_tiles():
    assert not in_group_softmax_native.can_multiply_pieces(48)


def test_a_repeat_head_is_used_only_if_seen_items_may_be_recommended():
    repeats = {"repeats": {"weight": 1.0}, "negatives": {"seen": False}}
    assert "evaluation.filter_seen=false" in _said(
        {**repeats, "evaluation": {"filter_seen": True}}, ONE_SET
    )
    assert not _said({**repeats, "evaluation": {"filter_seen": False}}, ONE_SET)
