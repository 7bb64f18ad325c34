"""Compiles the attention kernels for an H100 or H200 on a machine without one, and prints what each takes.

    python tools/compile_attention.py [bf16 | fp16 | fp32] [WIDTH ...]

A line a kernel: width of a head, type, warps, bytes of shared memory, registers a thread, and bytes of stack, where
registers that did not suffice are spilled to. Needs `triton` (the extra of that name) alone.
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

KERNELS = {
    "_forward": False,
    "_backward_queries": True,
    "_backward_keys": True,
}  # and whether of backward
_ROWS = {"q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v"}
_INTEGERS = {"offsets", "order", "times"}
_FLOATS = {"bias", "time_bias", "of_distance", "of_time"}


class Taken(NamedTuple):
    warps: int
    shared: int
    registers: int
    stack: int


def compile_kernel(name: str, width: int, dtype: str, timed: bool = False) -> Taken:
    kernel = getattr(attention, name)
    constants = {"TIMED": timed, "WIDTH": width, "BLOCK": attention.BLOCK, "PRECISION": "tf32x3"}
    names = kernel.arg_names
    types = {argument: _type(argument, dtype, constants) for argument in names}
    aligned = [
        n
        for n in names
        if n in _ROWS | _FLOATS | _INTEGERS or n.endswith(("_token", "_head")) or n == "width"
    ]
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs=constants,
        attrs={(names.index(argument),): [["tt.divisibility", 16]] for argument in aligned},
    )
    options = attention.launch(width, KERNELS[name])
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    folder = Path(nvidia.__file__).parent / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [folder / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    return Taken(
        options["num_warps"], compiled.metadata.shared, int(found["REG"]), int(found["STACK"])
    )


def _type(argument: str, dtype: str, constants: dict[str, object]) -> str:
    if argument in constants:
        return "constexpr"
    if argument in _ROWS:
        return f"*{dtype}"
    if argument in _INTEGERS:
        return "*i64"
    if argument in _FLOATS:
        return "*fp32"
    return "fp32" if argument in ("alpha", "scale") else "i32"


if __name__ == "__main__":
    dtype, *widths = sys.argv[1:] or ["bf16", "32", "64", "128", "256"]
    print("kernel width type", *Taken._fields)
    for width in map(int, widths):
        for name in KERNELS:
            print(name[1:], width, dtype, *compile_kernel(name, width, dtype), flush=True)
