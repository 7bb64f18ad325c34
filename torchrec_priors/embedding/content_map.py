"""Maps the content of items to the factors of their scores, after training.

    min over W of  sum_i | f_i - mean f - W (c_i - mean c) |^2 + penalty |W|^2

Here i is an item with a row and content, c_i its content, and f_i the factor of its score: for cosines,
its vector divided by its length (`heads/score.py`). An item without a row gets the factor

    mean f + W (c - mean c)

This is a mapping from attributes to factors (Gantner et al., ICDM 2010), by ridge regression.

A mapped factor is not divided by its length, also for cosines. A regression shortens what content
does not tell. So an item that content says little about has the scores of an average item; at length
1 it would have those of an item that many users like.

Shapes: N items, c width of content, f width of factors.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ContentMap:
    """A map from content to factors.

    Attributes:
        content_c: the mean content of the items that the map was fitted to.
        factor_f: their mean factor.
        weight_cf: W, transposed.
    """

    content_c: Tensor
    factor_f: Tensor
    weight_cf: Tensor

    @classmethod
    def fit(
        cls,
        blocks: Iterable[tuple[Tensor, Tensor]],
        penalty: float,
        total: Callable[[Tensor], Tensor],
    ) -> "ContentMap":
        """Fits the map to the items of all ranks. Every rank must call it.

        Args:
            blocks: content [N, c] and factors [N, f] of this rank's items, a block at a time; at
                least one block, which may have no items.
            penalty: the penalty, above 0.
            total: returns the sum of a tensor over all ranks.
        """
        sums = [_sums(content_Nc, factor_Nf) for content_Nc, factor_Nf in blocks]
        width = sums[0].shape[0] - 1
        sum_cf = total(torch.stack(sums).sum(0))

        # The last row of the sums belongs to a column of ones, see `_sums`.
        items = sum_cf[-1, width].clamp(min=1)
        content_c = sum_cf[-1, :width] / items
        factor_f = sum_cf[-1, width + 1 :] / items
        square_cc = sum_cf[:width, :width] - items * torch.outer(content_c, content_c)
        product_cf = sum_cf[:width, width + 1 :] - items * torch.outer(content_c, factor_f)

        square_cc.diagonal().add_(penalty)
        weight_cf = torch.linalg.solve(square_cc, product_cf)
        return cls(content_c.float(), factor_f.float(), weight_cf.float())

    def __call__(self, content_Nc: Tensor) -> Tensor:
        """Returns the factors of items with this content, [N, f]."""
        return (content_Nc - self.content_c) @ self.weight_cf + self.factor_f


def _sums(content_Nc: Tensor, factor_Nf: Tensor) -> Tensor:
    """Returns sums over items of the products that the regression needs, float64 [c + 1, c + 1 + f].

    They are those of (c, 1) with (c, 1, f).
    """
    # In float32, differences of such sums would lose digits.
    one_N1 = content_Nc.new_ones(len(content_Nc), 1)
    left_NX = torch.cat([content_Nc, one_N1], 1).double()
    return left_NX.T @ torch.cat([left_NX, factor_Nf.double()], 1)
