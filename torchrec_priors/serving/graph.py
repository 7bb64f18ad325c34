"""Exports the encoder and the heads as a graph for other runtimes: ONNX, or a compiled package.

queries.onnx    for onnxruntime and other runtimes that read ONNX
queries.pt2     compiled for this kind of machine by PyTorch (AOTInductor); C++ and Python load it

The graph reads item vectors, so it does not depend on the number of items or on how their table is
divided among ranks. The vectors are in `items.parquet`.

Inputs: `vectors`, float32 [batch, length, d], and `lengths`, int64 [batch] (`padded_model.py`).
Output: `queries`, float32 [batch, heads, d]. Batch and length may differ from call to call; a
length is at most the context of the model.
"""

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.serving.exported import Exported, load_exported
from torchrec_priors.serving.padded_model import PaddedModel

log = logging.getLogger(__name__)

Format = Literal["onnx", "aoti"]
FILE_OF = {"onnx": "queries.onnx", "aoti": "queries.pt2"}
TOLERANCE = 1e-4  # of a number of a query, relative to numbers above 1
_INPUTS = ("vectors", "lengths")
_CHECKED = 16  # histories with which the graph is compared with the model
_SEED = 0

# Runs a graph: from vectors and lengths to queries.
Runner = Callable[[Tensor, Tensor], Tensor]


def check_format(format: Format) -> None:
    """Raises UserError if what a format needs is not installed."""
    if format == "aoti":
        if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
            raise UserError(
                "--format aoti needs a C++ compiler: install g++ or clang++, or use --format onnx"
            )
        return
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--format onnx needs an extra: pip install 'torchrec-priors[onnx]'"
        ) from error


def add_graph(folder: Path, format: Format, *, trust: bool = False) -> dict[str, Any]:
    """Adds the graph to an export; returns what `export.json` says about it.

    Args:
        folder: the folder of the export.
        format: the format of the graph.
        trust: as for `load_exported`.

    Raises:
        UserError, OutsideError: see `write_graph`.
    """
    exported = load_exported(folder, trust=trust)
    difference = write_graph(exported, folder, format)
    about = {
        "format": format,
        "file": FILE_OF[format],
        "largest_context": exported.config.model.context,
        "largest_difference": difference,
    }
    return {"files": [FILE_OF[format]], "graph": about}


def write_graph(exported: Exported, folder: Path, format: Format) -> float | None:
    """Writes the graph into a folder, runs it, and compares it with the model.

    Args:
        exported: the export.
        folder: the folder.
        format: the format of the graph.

    Returns:
        The largest difference between a number of a query of the graph and of the model; None if
        the graph cannot be run here, because onnxruntime is not installed.

    Raises:
        UserError: the model cannot be exported as a graph.
        OutsideError: the queries of the graph differ by more than rounding.
    """
    model = exported.padded()
    file = folder / FILE_OF[format]
    write = _write_package if format == "aoti" else _write_onnx
    with torch.no_grad(), _quiet():
        runner = write(model, exported, file)
    if runner is None:
        log.warning(
            "onnxruntime is not installed, so '%s' was not compared with the model: pip install "
            "'torchrec-priors[onnx]'",
            file.name,
        )
        return None

    difference = _largest_difference(exported, runner)
    if not difference <= TOLERANCE:
        raise OutsideError(
            f"the queries of {file.name} differ from those of the model by {difference:.2g}: "
            "report this, with the line of --version"
        )
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporters tell about their own parts, such as that torchvision is missing."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _write_package(model: PaddedModel, exported: Exported, file: Path) -> Runner:
    """Compiles the model for this kind of machine; returns what runs the package."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    program = torch.export.export(model, _example(exported), dynamic_shapes=_shapes(exported))
    aoti_compile_and_package(program, package_path=str(file))
    package = aoti_load_package(str(file))
    return lambda vectors, lengths: package(vectors, lengths)


def _write_onnx(model: PaddedModel, exported: Exported, file: Path) -> Runner | None:
    """Writes the model as ONNX; returns what runs it, or None without onnxruntime."""
    torch.onnx.export(
        model,
        _example(exported),
        file,
        input_names=list(_INPUTS),
        output_names=["queries"],
        dynamic_shapes=_shapes(exported),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        return None
    session = InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(vectors: Tensor, lengths: Tensor) -> Tensor:
        inputs = {"vectors": vectors.numpy(), "lengths": lengths.numpy()}
        return torch.from_numpy(session.run(["queries"], inputs)[0])

    return run


def _example(exported: Exported) -> tuple[Tensor, Tensor]:
    """Returns inputs that `torch.export` follows. Sizes of 1 would be taken as fixed."""
    context = exported.config.model.context
    vector_BLd = torch.zeros(3, context, exported.config.model.dim)
    return vector_BLd, torch.tensor([1, context, context])


def _shapes(exported: Exported) -> dict[str, dict[int, Dim]]:
    """Returns the sizes of the inputs that may differ from call to call."""
    batch = Dim("batch", min=1)
    shapes = {"vectors": {0: batch}, "lengths": {0: batch}}
    context = exported.config.model.context
    if context > 1:
        shapes["vectors"][1] = Dim("length", min=1, max=context)
    return shapes


def _largest_difference(exported: Exported, run: Runner) -> float:
    """Returns the largest difference of a number between the queries of a graph and of the model.

    The graph is asked for several histories at once, and for a history of a single item.
    """
    random = np.random.default_rng(_SEED)
    rows = np.flatnonzero(exported.has_row_I.numpy())
    longest = exported.config.model.context
    lengths = [1, longest, *random.integers(1, longest + 1, _CHECKED - 2).tolist()]
    histories = [random.choice(rows, length).tolist() for length in lengths]

    largest = 0.0
    for batch in (histories, histories[:1]):
        vectors, lengths_B = padded_inputs(exported, batch)
        found = run(vectors, lengths_B)
        for history, query_Kd in zip(batch, found, strict=True):
            ids = [exported.item_ids[row].as_py() for row in history]
            expected_Kd = exported.queries(ids)
            difference = (query_Kd - expected_Kd).abs() / expected_Kd.abs().clamp(min=1)
            largest = max(largest, float(difference.max()))
    return largest


def padded_inputs(exported: Exported, histories: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns the inputs of the graph for some histories: vectors [B, L, d], and lengths [B].

    Args:
        exported: the export.
        histories: for each history the rows of its items in `items.parquet`, oldest first, not more
            than the context of the model.
    """
    lengths_B = torch.tensor([len(history) for history in histories])
    vector_BLd = torch.zeros(len(histories), int(lengths_B.max()), exported.input_Id.shape[1])
    for number, history in enumerate(histories):
        vector_BLd[number, : len(history)] = exported.input_Id[torch.tensor(history)]
    return vector_BLd, lengths_B
