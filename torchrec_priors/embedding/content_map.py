"""Maps the content of items to the factors of their scores, after training.

A ridge regression is fitted to the items that have rows. For item i, f_i is the factor of its
score: for cosines, its vector divided by its length (`heads/score.py`).

    min over W of  sum_i | f_i - mean f - W (x_i - mean x) |^2 + penalty |W|^2

x is the item's content, and how similar it is to that of some of these items, the landmarks: a
Gaussian kernel by Nystroem's method. So the map has a linear part and a local part. The penalty is
the one of `PENALTIES` that is best for a fifth of the items, which is held out; then W is fitted to
all of them.

An item without a row gets the factor mean f + W (x - mean x), with one change: in the direction in
which factors vary with the logarithm of training interactions, its distance from the mean is
stretched by `STRETCH`, because a regression shortens that too.

This is a map from attributes to factors (Gantner et al., ICDM 2010). A mapped factor is not divided
by its length, also for cosines. A regression shortens what content does not tell. So an item that
content says little about has the scores of an average item; at length 1 it would have those of an
item that many users like. docs/figures/cold-items.md has what was measured.

Shapes: N items, L landmarks, c width of content, x of (content, kernel), f of factors, z = x + f +
2.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
STRETCH = 1.25
LANDMARKS = 1024
_WIDTH = 0.25  # of the kernel, as a share of the root mean square distance of landmarks
_FLOOR = 1e-3  # added to the eigenvalues of the landmarks' kernel, which may be 0


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel of content, as features whose products are about its values.

    Attributes:
        landmark_Lc: the content of the landmarks.
        root_LL: the symmetric square root of the inverse of the kernel among the landmarks.
        width: the standard deviation.
    """

    landmark_Lc: Tensor
    root_LL: Tensor
    width: float

    @classmethod
    def of(cls, landmark_Lc: Tensor, total: Callable[[Tensor], Tensor], *, leads: bool) -> "Kernel":
        """Makes the kernel of some landmarks, of which there may be none.

        Every rank must call it with the same landmarks.

        Args:
            landmark_Lc: the content of the landmarks.
            total: returns the sum of a tensor over all ranks.
            leads: whether this is the one rank whose root all ranks use. Processors differ in the
                last bits, and features of two ranks must be the same.
        """
        square = float(_squares(landmark_Lc, landmark_Lc).mean()) if len(landmark_Lc) else 0.0
        # If all landmarks are equal, any width will do.
        width = _WIDTH * math.sqrt(square) or 1.0
        among_LL = _gaussian(landmark_Lc, landmark_Lc, width).double()
        value_L, vector_LL = torch.linalg.eigh(among_LL)
        # The symmetric root does not depend on the signs and the order of eigenvectors.
        root_LL = (vector_LL / (value_L.clamp(min=0) + _FLOOR).sqrt()) @ vector_LL.T
        if not leads:
            root_LL = torch.zeros_like(root_LL)
        return cls(landmark_Lc, total(root_LL).float(), width)

    def __call__(self, content_Nc: Tensor) -> Tensor:
        """Returns the features of items with this content, [N, L]."""
        return _gaussian(content_Nc, self.landmark_Lc, self.width) @ self.root_LL


@dataclass(frozen=True)
class Block:
    """Some items that a map is fitted to.

    Attributes:
        content_Nc: their content, of length 1.
        factor_Nf: their factors.
        log_count_N: the logarithms of one and their training interactions.
        held_out_N: bool, whether they are used only to choose the penalty.
    """

    content_Nc: Tensor
    factor_Nf: Tensor
    log_count_N: Tensor
    held_out_N: Tensor


@dataclass(frozen=True)
class ContentMap:
    """A map from content to factors.

    Attributes:
        kernel: makes x of content.
        mean_x: the mean x of the items that the map was fitted to.
        factor_f: their mean factor.
        weight_xf: W, transposed and stretched.
        penalty: the penalty that was chosen.
        explained: the share of the variance of held-out factors that the map explains; it may be
            below 0. NaN without held-out items.
    """

    kernel: Kernel
    mean_x: Tensor
    factor_f: Tensor
    weight_xf: Tensor
    penalty: float
    explained: float

    @classmethod
    def fit(
        cls,
        kernel: Kernel,
        blocks: Iterable[Block],
        total: Callable[[Tensor], Tensor],
        *,
        leads: bool,
    ) -> "ContentMap":
        """Fits the map to the items of all ranks. Every rank must call it.

        Args:
            kernel: the kernel, the same on all ranks.
            blocks: the items of this rank, at least one block, which may have no items.
            total: returns the sum of a tensor over all ranks.
            leads: whether this is the one rank that chooses the penalty.
        """
        sum_2zz = None
        for block in blocks:
            width = block.factor_Nf.shape[1]
            sum_2zz = _with_products(sum_2zz, kernel, block)
        assert sum_2zz is not None, "there is at least one block"
        fitted_zz, held_out_zz = total(sum_2zz)

        # If penalties are equally good, as without held-out items, the largest one is chosen.
        errors = {}
        for penalty in PENALTIES:
            weight_xf, mean_x, factor_f = _solved(fitted_zz, width, penalty)
            errors[penalty] = _error(held_out_zz, weight_xf, factor_f - mean_x @ weight_xf)
        chosen = min(reversed(PENALTIES), key=lambda one: errors[one])
        nothing = _error(held_out_zz, torch.zeros_like(weight_xf), factor_f)
        explained = 1.0 - errors[chosen] / nothing if nothing > 0 else math.nan

        # Two penalties may be so close that ranks would choose differently.
        agreed = total(weight_xf.new_tensor(PENALTIES.index(chosen) if leads else 0))
        penalty = PENALTIES[int(agreed)]
        both_zz = fitted_zz + held_out_zz
        weight_xf, mean_x, factor_f = _solved(both_zz, width, penalty)
        popular_f = _direction(both_zz, width)
        along_x1 = (weight_xf @ popular_f)[:, None]
        weight_xf = weight_xf + (STRETCH - 1) * along_x1 * popular_f
        return cls(kernel, mean_x.float(), factor_f.float(), weight_xf.float(), penalty, explained)

    def __call__(self, content_Nc: Tensor) -> Tensor:
        """Returns the factors of items with this content, [N, f]."""
        return (_x(self.kernel, content_Nc) - self.mean_x) @ self.weight_xf + self.factor_f


def _squares(first_Nc: Tensor, second_Lc: Tensor) -> Tensor:
    """Returns the squared distances of content of length 1, [N, L]."""
    return (2 - 2 * first_Nc @ second_Lc.T).clamp(min=0)


def _gaussian(first_Nc: Tensor, second_Lc: Tensor, width: float) -> Tensor:
    return torch.exp(-_squares(first_Nc, second_Lc) / (2 * width**2))


def _x(kernel: Kernel, content_Nc: Tensor) -> Tensor:
    return torch.cat([content_Nc, kernel(content_Nc)], 1)


def _with_products(sum_2zz: Tensor | None, kernel: Kernel, block: Block) -> Tensor:
    """Adds the products of z = (x, 1, log count, f): those of fitted and of held-out items."""
    one_N1 = block.log_count_N.new_ones(len(block.log_count_N), 1)
    parts = [
        _x(kernel, block.content_Nc),
        one_N1,
        block.log_count_N[:, None],
        block.factor_Nf,
    ]
    # In float32, differences of such sums would lose digits.
    z_Nz = torch.cat([part.double() for part in parts], 1)
    if sum_2zz is None:
        sum_2zz = z_Nz.new_zeros(2, z_Nz.shape[1], z_Nz.shape[1])
    for sum_zz, is_kept_N in zip(sum_2zz, (~block.held_out_N, block.held_out_N), strict=True):
        kept_Nz = z_Nz[is_kept_N]
        sum_zz.addmm_(kept_Nz.T, kept_Nz)
    return sum_2zz


def _solved(sum_zz: Tensor, width: int, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns W transposed [x, f], mean x and mean f. `width` is f."""
    x = len(sum_zz) - width - 2
    items = sum_zz[x, x].clamp(min=1)
    mean_x = sum_zz[x, :x] / items
    factor_f = sum_zz[x, x + 2 :] / items
    square_xx = sum_zz[:x, :x] - items * torch.outer(mean_x, mean_x)
    product_xf = sum_zz[:x, x + 2 :] - items * torch.outer(mean_x, factor_f)
    square_xx.diagonal().add_(penalty)
    weight_xf = torch.cholesky_solve(product_xf, torch.linalg.cholesky(square_xx))
    return weight_xf, mean_x, factor_f


def _error(sum_zz: Tensor, weight_xf: Tensor, bias_f: Tensor) -> float:
    """Returns the sum of squared errors of x W + b over the items of some sums."""
    width = weight_xf.shape[1]
    identity_ff = torch.eye(width, dtype=weight_xf.dtype, device=weight_xf.device)
    no_count_1f = weight_xf.new_zeros(1, width)
    # f - x W - b is z times this matrix.
    residual_zf = torch.cat([-weight_xf, -bias_f[None], no_count_1f, identity_ff])
    return float((residual_zf * (sum_zz @ residual_zf)).sum())


def _direction(sum_zz: Tensor, width: int) -> Tensor:
    """Returns the direction of the covariance of factors and log counts; 0 if there is none."""
    x = len(sum_zz) - width - 2
    items = sum_zz[x, x].clamp(min=1)
    covariance_f = sum_zz[x + 1, x + 2 :] - sum_zz[x, x + 1] * sum_zz[x, x + 2 :] / items
    return torch.nn.functional.normalize(covariance_f, dim=0)
