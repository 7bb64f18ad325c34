"""Compiles a Triton kernel for a GPU that need not be there, and reads the resources that it needs."""

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class Taken(NamedTuple):
    """The resources of a compiled kernel: shared memory and stack in bytes, registers per thread."""

    warps: int
    shared: int
    registers: int
    stack: int


def compile_kernel(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    aligned: Iterable[str],
    options: dict[str, int],
    capability: int,
) -> Taken:
    """Compiles a kernel and returns its resources.

    Args:
        kernel: the kernel.
        types: Triton's type of each argument.
        constants: the values of the arguments that are constants.
        aligned: the arguments that are always multiples of 16.
        options: the options with which it is launched.
        capability: the architecture of the GPU, such as 90.
    """
    names = list(types)
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs=constants,
        attrs={(names.index(argument),): [["tt.divisibility", 16]] for argument in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    # Without a device, only a tool of CUDA reports these resources. Triton contains it.
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
