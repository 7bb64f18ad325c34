"""The kind of products is that of the `with` block around a forward pass; without AMX it is float32."""

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


def test_without_amx_products_are_of_float32():
    with products("bf16x2"):
        assert chosen_pieces(SimpleNamespace(most_pieces=lambda: 0)) == 0
