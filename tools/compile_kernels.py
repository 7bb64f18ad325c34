"""Compiles the kernels of heads, softmax, norm and search for a GPU and prints what they need.

    python tools/compile_kernels.py [sm_90 | sm_100] [fp32 | bf16 | fp16] [WIDTH ...]

No GPU is needed, only `triton` (the extra of that name). The script prints a line for each kernel:
its module and name, the type and the width of the vectors, warps, bytes of shared memory, registers per thread,
and bytes of stack, where registers are spilled. `compile_attention.py` does the same for attention.
"""

import importlib
import sys
from typing import Any

from kernel_resources import Taken, compile_kernel

from torchrec_priors.ops import (
    best_tiles,
    best_tiles_triton,
    gated_norm_triton,
    in_group_softmax_triton,
)
from torchrec_priors.ops import residual_adapters_triton as adapters

# Arguments by type; all other arguments are int32 numbers. Those of a module come first.
_I64 = {
    "row", "run", "adapter", "bounds", "runs", "first_run", "ids", "source", "own_id", "query_of",
    "set_of_query", "first_negative", "first_positive", "first_query", "first_path", "chosen",
    "keys", "hidden", "first_hidden", "count_hidden",
}  # fmt: skip
_I8 = {"own_hidden"}
_I32 = {"heavies", "best_paths"}
_FLOATS = {
    "shifts", "score", "copies", "loss", "by_score", "heavy_top", "heavy_by", "tops", "by_sums",
    "means", "deviations", "sums", "scales", "biases", "maxima", "scores", "weight", "bias",
}  # fmt: skip
# Vectors, which have the type of the inputs.
_VECTORS = {
    "residual_adapters_triton": {
        "z", "weight", "bias", "out", "grad", "inner", "through", "grad_weight", "grad_bias",
    },
    "in_group_softmax_triton": {"query", "item", "vectors", "grad_query", "grad_vectors"},
    "gated_norm_triton": {"x", "u", "out", "grad", "grad_x", "grad_u"},
    "best_tiles_triton": {"queries", "vectors"},
}  # fmt: skip
_NUMBERS = {"eps": "fp32", "scale": "fp32", "salt": "i64"}
_OF_MODULE = {
    "best_tiles_triton": {"rows": "*i32", "sets": "*i32"},
    "in_group_softmax_triton": {"positives": "i32", "queries_": "i32"},
}


def kernels(width: int) -> list[tuple[str, str, dict[str, Any], dict[str, int]]]:
    """Returns module, name, constants and options of every kernel, as for vectors of a width."""
    adapter = {
        "ROWS": adapters.ROWS, "COLUMNS": adapters.COLUMNS, "PRECISION": "tf32x3"
    }  # fmt: skip
    flags = {"HAS_WEIGHT": True, "HAS_BIAS": True}
    deep = {"DEPTH": adapters.DEPTH}
    eight = {"num_warps": 8}
    softmax = {
        "SHIFTED": True, "HIDES": True, "WIDTH": width, "ROWS": in_group_softmax_triton.block_rows(width),
    }  # fmt: skip
    products = {"COLUMNS": in_group_softmax_triton.COLUMNS, "PRECISION": "tf32x3"}
    of_softmax = in_group_softmax_triton.launch(width)
    sizes = gated_norm_triton._sizes(width)
    norm = {"DROPS": True, "ROWS": sizes["ROWS"], "WIDTH": sizes["WIDTH"]}
    tile = {"SCALED": True, "TILE": best_tiles.TILE, "WIDTH": width}
    four = {"num_warps": 4}
    return [
        ("residual_adapters_triton", "_forward", {**adapter, **flags, **deep}, eight),
        ("residual_adapters_triton", "_through_silu", {**adapter, **deep}, eight),
        ("residual_adapters_triton", "_through_product", {**adapter, **deep}, eight),
        ("residual_adapters_triton", "_of_adapters", {**adapter, **flags}, eight),
        ("in_group_softmax_triton", "_positives", {**softmax, "SHARED": True}, four),
        (
            "in_group_softmax_triton",
            "_queries",
            {**softmax, **products, "SHARED": True, "GRADS": True},
            of_softmax,
        ),
        ("in_group_softmax_triton", "_negatives", {**softmax, **products}, of_softmax),
        ("gated_norm_triton", "_forward", norm, four),
        ("gated_norm_triton", "_backward", norm, four),
        ("gated_norm_triton", "_drop", {"ROWS": 16, "WIDTH": 256}, four),
        (
            "best_tiles_triton",
            "_maxima",
            {**tile, "USERS": best_tiles_triton.USERS, "PRECISION": "tf32x3"},
            {"num_warps": 4 if width <= 64 else 8, "num_stages": 2},
        ),
        ("best_tiles_triton", "_scores", tile, four),
    ]


def compile_one(
    module: str,
    name: str,
    constants: dict[str, Any],
    options: dict[str, int],
    capability: int,
    dtype: str,
) -> Taken:
    """Compiles a kernel of a module of `torchrec_priors.ops`, and returns its resources."""
    kernel = getattr(importlib.import_module(f"torchrec_priors.ops.{module}"), name)
    types = {name: _type(name, module, constants, dtype) for name in kernel.arg_names}
    aligned = [argument for argument, kind in types.items() if kind.startswith("*")]
    return compile_kernel(kernel, types, constants, aligned, options, capability)


def _type(argument: str, module: str, constants: dict[str, Any], dtype: str) -> str:
    """Returns Triton's type of an argument."""
    if argument in constants:
        return "constexpr"
    of_module = _OF_MODULE.get(module, {})
    if argument in of_module:
        return of_module[argument]
    if argument in _NUMBERS:
        return _NUMBERS[argument]
    if argument in _VECTORS[module]:
        return f"*{dtype}"
    for names, kind in ((_I64, "*i64"), (_I32, "*i32"), (_I8, "*i8"), (_FLOATS, "*fp32")):
        if argument in names:
            return kind
    return "i32"


def main() -> None:
    target, dtype, *widths = sys.argv[1:] or ["sm_90", "fp32", "64", "128", "256"]
    print("module kernel type width warps shared registers stack")
    for width in map(int, widths):
        for module, name, constants, options in kernels(width):
            taken = compile_one(module, name, constants, options, int(target[3:]), dtype)
            print(module, name, dtype, width, *taken, flush=True)


if __name__ == "__main__":
    main()
