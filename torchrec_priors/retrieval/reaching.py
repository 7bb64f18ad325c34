"""Which items of a product may be among a user's best: few, so that nothing is written of the others.

By a C++ loop that reads the scores once, where there is a compiler; else by PyTorch's operations, which find the same.

Shapes: U users, p paths of an item set, R rows of a path in the product (the users, and zeros), n items, N columns of
the product (the items, and zeros), c items found.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.ops.native import load_native

COLUMNS = 64  # a product's columns are a multiple of it
_SOURCE = Path(__file__).with_name("reaching_native.cpp")


class _Found(ctypes.Structure):
    _fields_ = (
        ("places", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("column", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    )


class Reaching:
    """Finds items, with room for products of a size."""

    def __init__(self, users: int, columns: int, device: torch.device) -> None:
        self._library = load_native(_SOURCE) if device.type == "cpu" else None
        if self._library is not None:
            self._places = torch.empty(users * columns, dtype=torch.int32)
            self._counts = torch.empty(users, dtype=torch.int32)
            self._user, self._column = torch.empty(2, users * columns, dtype=torch.int64)

    def scores(
        self, score_pRN: Tensor, bias_pU: Tensor | None, items: int, threshold_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Users and columns, by user: where the largest of the paths' scores, biases added, reaches the threshold."""
        users = len(threshold_U)
        if self._library is not None:
            sizes = _sizes(score_pRN, users, items)
            return self._found(
                "reaching_scores", _of(score_pRN), _of(bias_pU), *sizes, _of(threshold_U)
            )
        score_pUn = score_pRN[:, :users, :items]
        return _reaching(
            (score_pUn if bias_pU is None else score_pUn + bias_pU[..., None]).amax(0), threshold_U
        )

    def bounds(
        self, product_pRN: Tensor, margin_U: Tensor, step_N: Tensor, items: int, threshold_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Users and columns, by user: where (largest product + margin) step reaches the threshold."""
        users = len(threshold_U)
        if self._library is not None:
            given = _of(product_pRN), _of(margin_U), _of(step_N)
            return self._found(
                "reaching_bounds", *given, *_sizes(product_pRN, users, items), _of(threshold_U)
            )
        largest_Un = product_pRN[:, :users, :items].amax(0).float()
        return _reaching(largest_Un.add_(margin_U[:, None]).mul_(step_N[:items]), threshold_U)

    def _found(self, name: str, *given: Any) -> tuple[Tensor, Tensor]:
        room = (_of(x) for x in (self._places, self._counts, self._user, self._column))
        function = getattr(self._library, name)
        function.restype = ctypes.c_int64
        number = function(*given, ctypes.byref(_Found(*room, torch.get_num_threads())))
        return self._user[:number].clone(), self._column[:number].clone()


def _reaching(highest_Un: Tensor, threshold_U: Tensor) -> tuple[Tensor, Tensor]:
    user_m = torch.nonzero(highest_Un.amax(1) >= threshold_U)[:, 0]
    row, column = torch.nonzero(highest_Un[user_m] >= threshold_U[user_m, None], as_tuple=True)
    return user_m[row], column


def _of(x: Tensor | None) -> ctypes.c_void_p:
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _sizes(x_pRN: Tensor, users: int, items: int) -> tuple[ctypes.c_int64, ...]:
    return tuple(map(ctypes.c_int64, (*x_pRN.shape, users, items)))
