"""How the kernels for CPUs multiply float32 matrices: as float32, or as pieces of bfloat16.

A float32 number has 24 bits, and a bfloat16 number has 8. So three pieces of bfloat16 have all bits
of a float32 number:

    x = x_0 + x_1 + x_2

A product with P pieces adds the products of pieces p and q with p + q < P, with sums in float32:

    kind      pieces   products   error of a sum of 128 products, as a share of its typical size
    fp32      -        -          2e-7
    bf16x3    3        6          1e-7
    bf16x2    2        3          4e-6
    bf16x1    1        1          2e-3

Processors with AMX multiply matrices of bfloat16 at up to 16 times the rate of float32, so they
have all kinds. Processors with AVX512-BF16 alone have twice the rate of float32, so they have
`bf16x1`, and other kinds would be slower than `fp32`. A kind that a processor does not have is
`fp32`, and so are all kinds without a compiler.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

FP32 = "fp32"
PIECES = {FP32: 0, "bf16x3": 3, "bf16x2": 2, "bf16x1": 1}

_pieces: ContextVar[int] = ContextVar("pieces", default=0)


@contextmanager
def products(kind: str) -> Iterator[None]:
    """Within it, kernels called by this thread multiply in this way.

    A backward pass multiplies as its forward pass did.

    Args:
        kind: a key of `PIECES`.
    """
    token = _pieces.set(PIECES[kind])
    try:
        yield
    finally:
        _pieces.reset(token)


def chosen_pieces(library: ctypes.CDLL) -> int:
    """Returns with how many pieces a kernel shall multiply; 0 for float32.

    Args:
        library: the kernel; its function `most_pieces` says how many this machine supports.
    """
    most: int = library.most_pieces()
    pieces = _pieces.get()
    return pieces if pieces <= most else 0
