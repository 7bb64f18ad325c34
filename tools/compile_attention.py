"""Compiles the attention kernels for a GPU and prints the resources that they need.

    python tools/compile_attention.py [sm_90 | sm_100] [bf16 | fp16 | fp32] [WIDTH ...]

No GPU is needed, only `triton` (the extra of that name). The script prints a line for each kernel:
the width of a head, the type, warps, bytes of shared memory, registers per thread, and bytes of
stack, where registers are spilled. sm_90 is that of an H100 or H200.
"""

import sys

from kernel_resources import Taken, compile_kernel

from torchrec_priors.ops import hstu_attention_triton as attention

# Name of the kernel -> whether it belongs to backward.
KERNELS = {
    "_forward": False,
    "_backward_queries": True,
    "_backward_keys": True,
}
# Arguments that are pointers, grouped by the type of the data.
_ROWS = {"q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v"}
_INTEGERS = {"offsets", "order", "times"}
_FLOATS = {"bias", "time_bias", "distance_sums", "time_sums"}


def compile_attention(
    name: str, width: int, dtype: str, capability: int = 90, timed: bool = False
) -> Taken:
    """Compiles a kernel for a width of heads and a type of rows, and returns its resources."""
    kernel = getattr(attention, name)
    constants = {"TIMED": timed, "WIDTH": width, "BLOCK": attention.BLOCK, "PRECISION": "tf32x3"}
    types = {argument: _type(argument, dtype, constants) for argument in kernel.arg_names}
    aligned = filter(_is_aligned, types)
    options = attention.launch(width, KERNELS[name], 4 if dtype == "fp32" else 2)
    return compile_kernel(kernel, types, constants, aligned, options, capability)


def _is_aligned(argument: str) -> bool:
    """Whether an argument is always a multiple of 16: pointers and strides are."""
    is_pointer = argument in _ROWS | _FLOATS | _INTEGERS
    return is_pointer or argument.endswith(("_token", "_head")) or argument == "width"


def _type(argument: str, dtype: str, constants: dict[str, object]) -> str:
    """Returns Triton's type of an argument."""
    if argument in constants:
        return "constexpr"
    if argument in _ROWS:
        return f"*{dtype}"
    if argument in _INTEGERS:
        return "*i64"
    if argument in _FLOATS:
        return "*fp32"
    if argument in ("alpha", "scale"):
        return "fp32"
    return "i32"


def main() -> None:
    target, dtype, *widths = sys.argv[1:] or ["sm_90", "bf16", "32", "64", "128", "256"]
    print("kernel width type", *Taken._fields)
    for width in map(int, widths):
        for name in KERNELS:
            taken = compile_attention(name, width, dtype, int(target[3:]))
            print(name[1:], width, dtype, *taken, flush=True)


if __name__ == "__main__":
    main()
