"""Every experiment that is shipped can be read, and all its cells are configurations."""

from dataclasses import asdict
from pathlib import Path

import pytest

from torchrec_priors.config import load_config, with_changes
from torchrec_priors.experiments.file import read_experiment
from torchrec_priors.experiments.matrix import cells_of

FOLDER = Path(__file__).resolve().parents[2] / "torchx_configs/experiments"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_its_cells_are_configurations(file):
    experiment = read_experiment(file)
    base = load_config(FOLDER / experiment.config)
    cells = cells_of(experiment)
    assert experiment.reference in [cell.name for cell in cells]
    for cell in cells:
        with_changes(asdict(base), list(cell.changes.items()))
