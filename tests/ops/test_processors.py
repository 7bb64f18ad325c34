"""The C++ kernels compile for processors with other instructions than those of this machine."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import torchrec_priors

COMPILER = shutil.which("g++")
PACKAGE = Path(torchrec_priors.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*_native.cpp"))
# Without AVX; with AVX2; with AVX-512; the same with products of bfloat16; with AMX.
PROCESSORS = ("x86-64", "haswell", "skylake-avx512", "cooperlake", "sapphirerapids")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no g++ here"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors are x86-64"),
]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_kernel_compiles(source, processor):
    done = _compile(source, processor, "-fsyntax-only")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("processor", "instruction"), [("cooperlake", "vdpbf16ps"), ("sapphirerapids", "tdpbf16ps")]
)
def test_products_of_bfloat16_use_the_instruction_of_the_processor(
    processor, instruction, tmp_path
):
    assembly = tmp_path / "kernel.s"
    source = PACKAGE / "ops" / "residual_adapters_native.cpp"

    done = _compile(source, processor, "-O1", "-S", "-o", str(assembly))

    assert done.returncode == 0, done.stderr
    assert instruction in assembly.read_text()


def _compile(source: Path, processor: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMPILER, f"-march={processor}", "-std=c++17", "-fopenmp", *options, str(source)],
        capture_output=True,
        text=True,
    )
