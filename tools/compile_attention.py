"""Compiles the attention kernels for an H100 or H200, on any machine, and prints what each takes.

    python tools/compile_attention.py [bf16 | fp16 | fp32] [WIDTH ...]

It prints a line for each kernel: width of a head, type, warps, bytes of shared memory, registers
per thread, and bytes of stack, to which registers are spilled. It needs only `triton` (the extra of
that name).
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchrec_priors.ops import hstu_attention_triton as attention

# Name of the kernel, and whether it is of backward.
KERNELS = {
    "_forward": False,
    "_backward_queries": True,
    "_backward_keys": True,
}
# Arguments that are pointers, by what they point to.
_ROWS = {"q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v"}
_INTEGERS = {"offsets", "order", "times"}
_FLOATS = {"bias", "time_bias", "of_distance", "of_time"}


class Taken(NamedTuple):
    """What a compiled kernel takes; see above."""

    warps: int
    shared: int
    registers: int
    stack: int


def compile_kernel(name: str, width: int, dtype: str, timed: bool = False) -> Taken:
    """Compiles a kernel for a width of heads and a type of the rows, and returns what it takes."""
    kernel = getattr(attention, name)
    constants = {"TIMED": timed, "WIDTH": width, "BLOCK": attention.BLOCK, "PRECISION": "tf32x3"}
    names = kernel.arg_names
    types = {argument: _type(argument, dtype, constants) for argument in names}
    aligned = [argument for argument in names if _is_aligned(argument)]
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs=constants,
        attrs={(names.index(argument),): [["tt.divisibility", 16]] for argument in aligned},
    )
    options = attention.launch(width, KERNELS[name])
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

    # Without a device only CUDA's own tool, which Triton brings along, says what a kernel takes.
    folder = Path(nvidia.__file__).parent / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [folder / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    counts = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    return Taken(
        warps=options["num_warps"],
        shared=compiled.metadata.shared,
        registers=int(counts["REG"]),
        stack=int(counts["STACK"]),
    )


def _is_aligned(argument: str) -> bool:
    """Returns whether an argument is a multiple of 16, as pointers and strides are here."""
    is_pointer = argument in _ROWS | _FLOATS | _INTEGERS
    return is_pointer or argument.endswith(("_token", "_head")) or argument == "width"


def _type(argument: str, dtype: str, constants: dict[str, object]) -> str:
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
    dtype, *widths = sys.argv[1:] or ["bf16", "32", "64", "128", "256"]
    print("kernel width type", *Taken._fields)
    for width in map(int, widths):
        for name in KERNELS:
            print(name[1:], width, dtype, *compile_kernel(name, width, dtype), flush=True)


if __name__ == "__main__":
    main()
