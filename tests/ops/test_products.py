"""The kind of products is that of the `with` block around a forward pass, if the processor has it."""

from types import SimpleNamespace

import pytest

from torchrec_priors.ops.products import PIECES, chosen_pieces, products


def _with_amx():
    return SimpleNamespace(most_pieces=lambda: 3)


@pytest.mark.parametrize(("kind", "pieces"), PIECES.items())
def test_the_innermost_block_decides(kind, pieces):
    assert chosen_pieces(_with_amx()) == 0
    with products("bf16x1"):
        with products(kind):
            assert chosen_pieces(_with_amx()) == pieces
        assert chosen_pieces(_with_amx()) == 1
    assert chosen_pieces(_with_amx()) == 0


def test_a_block_that_fails_has_ended():
    with pytest.raises(ValueError, match="failed"), products("bf16x2"):
        raise ValueError("failed")
    assert chosen_pieces(_with_amx()) == 0


@pytest.mark.parametrize(("kind", "pieces"), PIECES.items())
def test_a_kind_that_the_processor_does_not_have_is_float32(kind, pieces):
    """It is not a kind with fewer pieces, which would be less exact."""
    for most in (0, 1):
        with products(kind):
            chosen = chosen_pieces(SimpleNamespace(most_pieces=lambda most=most: most))
        assert chosen == (pieces if pieces <= most else 0)
