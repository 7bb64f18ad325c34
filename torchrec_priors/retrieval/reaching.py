"""Which items of a product may be among a user's best: few, so nothing is written of the others.

A C++ loop reads the scores once, if a compiler is available; otherwise PyTorch's operations find
the same items.

Shapes: U users, p paths of an item set, R rows of a path in the product (the users, and zeros),
n items, N columns of the product (the items, and zeros), c items found.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.native import load_native

COLUMNS = 64  # the number of columns of a product is a multiple of it
_SOURCE = Path(__file__).with_name("reaching_native.cpp")


class _Results(ctypes.Structure):
    """`Found` of the C++ source: where results are written, and by how many threads."""

    _fields_ = (
        ("places", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("column", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    )


class Reaching:
    """Finds items in products of at most `users` x `columns`, for which it holds the memory."""

    def __init__(self, users: int, columns: int, device: torch.device) -> None:
        self._library = load_native(_SOURCE) if device.type == "cpu" else None
        if self._library is not None:
            # For the worst case, that every item reaches every user's threshold.
            self._places = torch.empty(users * columns, dtype=torch.int32)
            self._counts = torch.empty(users, dtype=torch.int32)
            self._user, self._column = torch.empty(2, users * columns, dtype=torch.int64)

    def scores(
        self, score_pRN: Tensor, bias_pU: Tensor | None, items: int, threshold_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Users and columns, by user, of items that reach the threshold.

        What must reach it is the largest of the paths' scores, with their biases.
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

        # Without the padding of the product.
        score_pUn = score_pRN[:, :users, :items]
        if bias_pU is not None:
            score_pUn = score_pUn + bias_pU[..., None]
        return _reaching(score_pUn.amax(0), threshold_U)

    def bounds(
        self, product_pRN: Tensor, margin_U: Tensor, step_N: Tensor, items: int, threshold_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Users and columns, by user: (largest product + margin) step reaches the threshold."""
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
        """Calls a function of the library; copies its results, as the memory is used again."""
        memory = (self._places, self._counts, self._user, self._column)
        results = _Results(*map(_pointer, memory), torch.get_num_threads())
        function = getattr(self._library, name)
        # Otherwise ctypes would read the number as a C int.
        function.restype = ctypes.c_int64
        number = function(*arguments, ctypes.byref(results))
        return self._user[:number].clone(), self._column[:number].clone()


def _reaching(highest_Un: Tensor, threshold_U: Tensor) -> tuple[Tensor, Tensor]:
    # Most users have no such item: only the rows of the others are looked through.
    user_m = torch.nonzero(highest_Un.amax(1) >= threshold_U)[:, 0]
    row, column = torch.nonzero(highest_Un[user_m] >= threshold_U[user_m, None], as_tuple=True)
    return user_m[row], column


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _sizes(x_pRN: Tensor, users: int, items: int) -> tuple[ctypes.c_int64, ...]:
    return tuple(map(ctypes.c_int64, (*x_pRN.shape, users, items)))
