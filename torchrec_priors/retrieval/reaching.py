"""Picks the items in a matrix product of scores that may be among a user's best items.

Few items are picked, and nothing is written for the others, which makes the search fast. If a
compiler is available, a C++ loop reads the scores once. Otherwise operations of PyTorch pick the
same items.

Shapes: U users, p paths of an item set, R rows of a path in the product (the users, and zeros),
n items, N columns of the product (the items, and zeros), c items found.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.native import load_native

COLUMNS = 64  # the number of columns in a product must be a multiple of it
_SOURCE = Path(__file__).with_name("reaching_native.cpp")


class _Results(ctypes.Structure):
    """The struct `Found` of the C++ source: where to write results, and the number of threads."""

    _fields_ = (
        ("places", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("column", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    )


class Reaching:
    """Picks items in products of at most `users` x `columns` scores.

    The memory for the results is allocated once.
    """

    def __init__(self, users: int, columns: int, device: torch.device) -> None:
        self._library = load_native(_SOURCE) if device.type == "cpu" else None
        if self._library is not None:
            # Enough memory for the case that every item reaches every user's threshold.
            self._places = torch.empty(users * columns, dtype=torch.int32)
            self._counts = torch.empty(users, dtype=torch.int32)
            self._user, self._column = torch.empty(2, users * columns, dtype=torch.int64)

    def scores(
        self, score_pRN: Tensor, bias_pU: Tensor | None, items: int, threshold_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Picks the items with a best score, over all paths, that reaches the user's threshold.

        Args:
            score_pRN: the scores, padded with zeros.
            bias_pU: added to the scores; None if all biases are 0.
            items: the number of items.
            threshold_U: the threshold of each user.

        Returns:
            The users and columns of the items, sorted by user.
        """
        users = len(threshold_U)
        if self._library is not None:
            return self._call(
                "reaching_scores",
                _pointer(score_pRN),
                _pointer(bias_pU),
                *_sizes(score_pRN, users, items),
                _pointer(threshold_U),
            )

        # The padding of the product is cut off.
        score_pUn = score_pRN[:, :users, :items]
        if bias_pU is not None:
            score_pUn = score_pUn + bias_pU[..., None]
        return _reaching(score_pUn.amax(0), threshold_U)

    def bounds(
        self, product_pRN: Tensor, margin_U: Tensor, step_N: Tensor, items: int, threshold_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Picks the items with an upper bound that reaches the user's threshold.

        The bound of an item is (largest integer product of all paths + margin) x step.

        Args:
            product_pRN: the integer products, padded with zeros.
            margin_U: the margin of each user.
            step_N: the step of each item.
            items: the number of items.
            threshold_U: the threshold of each user.

        Returns:
            The users and columns of the items, sorted by user.
        """
        users = len(threshold_U)
        if self._library is not None:
            return self._call(
                "reaching_bounds",
                _pointer(product_pRN),
                _pointer(margin_U),
                _pointer(step_N),
                *_sizes(product_pRN, users, items),
                _pointer(threshold_U),
            )

        largest_Un = product_pRN[:, :users, :items].amax(0).float()
        return _reaching(largest_Un.add_(margin_U[:, None]).mul_(step_N[:items]), threshold_U)

    def _call(self, name: str, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Calls a function of the library, and returns copies of the users and columns it wrote.

        They are copied because the next call writes into the same memory.
        """
        memory = (self._places, self._counts, self._user, self._column)
        results = _Results(*map(_pointer, memory), torch.get_num_threads())
        function = getattr(self._library, name)
        # By default ctypes reads the returned number as a C int.
        function.restype = ctypes.c_int64
        number = function(*arguments, ctypes.byref(results))
        return self._user[:number].clone(), self._column[:number].clone()


def _reaching(highest_Un: Tensor, threshold_U: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the users and columns of the values that reach the user's threshold."""
    # Most users have no such value, so first the users who have one are picked.
    user_m = torch.nonzero(highest_Un.amax(1) >= threshold_U)[:, 0]
    row, column = torch.nonzero(highest_Un[user_m] >= threshold_U[user_m, None], as_tuple=True)
    return user_m[row], column


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _sizes(x_pRN: Tensor, users: int, items: int) -> tuple[ctypes.c_int64, ...]:
    """Returns the sizes that the functions of the library take: p, R, N, users and items."""
    return tuple(map(ctypes.c_int64, (*x_pRN.shape, users, items)))
