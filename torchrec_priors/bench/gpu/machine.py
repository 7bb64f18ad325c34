"""Says what the device is, and which rates it reaches."""

import platform

import numpy as np
import torch

from torchrec_priors.bench.gpu.device import TYPES, bandwidth, matmul_rate
from torchrec_priors.bench.gpu.report import Report


def describe_machine(device: torch.device, report: Report) -> None:
    """Reports the device, the versions, and rates of matrix products and copies."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version_of_triton(),
        "numpy": np.__version__,
        "cuda": str(torch.version.cuda),
    }
    report("versions", {**versions})
    if device.type == "cuda":
        of_device = torch.cuda.get_device_properties(device)
        report(
            "device",
            {
                "name": of_device.name,
                "capability": f"{of_device.major}.{of_device.minor}",
                "multiprocessors": of_device.multi_processor_count,
                "memory, GB": of_device.total_memory / 1e9,
            },
        )
    else:
        report("device", {"name": "CPU, Triton's interpreter"})

    for name, dtype in TYPES.items():
        rate = matmul_rate(device, dtype)
        report("rates", {"what": f"matrix product, {name}", "TFLOP/s": rate / 1e12})
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        rate = matmul_rate(device, torch.float32)
        torch.set_float32_matmul_precision("highest")
        report("rates", {"what": "matrix product, tf32", "TFLOP/s": rate / 1e12})
    report("rates", {"what": "copy, read and written", "TB/s": bandwidth(device) / 1e12})


def _version_of_triton() -> str:
    try:
        import triton
    except ImportError:
        return "not installed"
    return str(triton.__version__)
