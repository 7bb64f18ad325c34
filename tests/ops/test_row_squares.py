"""Squares of rows' gradients are those that one id after the other gives."""

import pytest
import torch

from torchrec_priors.ops.row_squares import Occurrences, row_squares, row_squares_reference


@pytest.mark.parametrize(
    ("ids", "rows", "columns"), [(0, 5, 4), (1, 1, 1), (40, 7, 8), (300, 1000, 4), (90, 3, 20)]
)
def test_parity(ids, rows, columns):
    torch.manual_seed(ids)
    row_N, gradient_Nd = torch.randint(rows, (ids,)), torch.randn(ids, columns)
    found = Occurrences.of(row_N)
    square_R = torch.zeros(rows)
    square_R[found.row_U] = row_squares(found, gradient_Nd)
    assert found.row_U.tolist() == sorted(set(row_N.tolist()))
    torch.testing.assert_close(square_R, row_squares_reference(row_N, gradient_Nd, rows))


def test_parts_of_the_columns_add_up():
    torch.manual_seed(1)
    row_N, gradient_Nd = torch.randint(9, (50,)), torch.randn(50, 12)
    found = Occurrences.of(row_N)
    parts = sum(row_squares(found, part.contiguous()) for part in gradient_Nd.split([4, 8], dim=1))
    torch.testing.assert_close(parts, row_squares(found, gradient_Nd))


def test_copies_that_cancel_each_other_have_no_square():
    found = Occurrences.of(torch.tensor([2, 0, 2]))
    gradient_Nd = torch.tensor([[3.0, 1.0], [2.0, 0.0], [-3.0, -1.0]])
    assert row_squares(found, gradient_Nd).tolist() == [4.0, 0.0]
