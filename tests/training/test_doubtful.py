"""Settings that are allowed, but make a model worse, are said when training starts; usual ones are silent."""

from types import SimpleNamespace

import pytest

from torchrec_priors.config import parse
from torchrec_priors.ops import in_group_softmax_native, native
from torchrec_priors.ops.in_group_softmax_native import has_products
from torchrec_priors.ops.products import FP32, PIECES
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


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("most", [0, 1, 3])
def test_products_that_the_processor_does_not_have_are_said(kind, most, monkeypatch):
    """AVX512-BF16 has one piece, and AMX has three."""
    machine = SimpleNamespace(most_pieces=lambda: most)
    monkeypatch.setattr(in_group_softmax_native, "load_native", lambda _: machine)

    said = _said({"training": {"products": kind}}, ONE_SET)

    is_said = f"training.products={kind} changes nothing here" in said
    assert is_said == (PIECES[kind] > most)
    assert ("AVX512-BF16" in said) == (is_said and kind == "bf16x1")


def test_without_a_compiler_no_pieces_are_multiplied(monkeypatch):
    monkeypatch.setenv("TORCHREC_PRIORS_NATIVE", "0")
    native.load_native.cache_clear()
    assert [kind for kind in PIECES if has_products(kind, 64)] == [FP32]
    native.load_native.cache_clear()


def test_pieces_need_whole_tiles():
    assert [kind for kind in PIECES if has_products(kind, 48)] == [FP32]


def test_a_repeat_head_is_used_only_if_seen_items_may_be_recommended():
    repeats = {"repeats": {"weight": 1.0}, "negatives": {"seen": False}}
    assert "evaluation.filter_seen=false" in _said(
        {**repeats, "evaluation": {"filter_seen": True}}, ONE_SET
    )
    assert not _said({**repeats, "evaluation": {"filter_seen": False}}, ONE_SET)
