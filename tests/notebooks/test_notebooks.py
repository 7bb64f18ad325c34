"""The notebooks run from their first cell to their last, quietly, and are stored without outputs."""

import json
import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What a notebook prints, apart from results: lines of progress, and what training and tables say.
_EXPECTED = re.compile(
    r"step |tables over |  \w+ +row_wise|.* \[\d\d:\d\d\]$|evaluation: |recommendations: |tables? "
)


def test_there_are_two():
    assert [file.stem for file in NOTEBOOKS] == ["first_model", "own_data"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_no_outputs_are_stored(file):
    for cell in json.loads(file.read_text(encoding="utf8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat = pytest.importorskip("nbformat")
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    # Nothing is started through a shell, and nothing is found on the path.
    monkeypatch.setenv("PATH", "/nowhere")

    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        cell.source = re.sub(r"STEPS = \d+", "STEPS = 50", cell.source)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = [
        line
        for output in outputs
        if output.output_type == "stream" and output.name == "stderr"
        for line in output.text.splitlines()
    ]
    assert [line for line in said if line and not _EXPECTED.match(line)] == []
    tables = [output for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) >= 2
