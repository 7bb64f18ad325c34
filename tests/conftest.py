"""Data sets that tests share. This folder is on sys.path, so that tests can import its helper modules."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

# Without a GPU, Triton's kernels are interpreted. It is read when triton is imported, which torchrec does.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import tiny
from small_movielens import write_movielens

from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.settings.run_config import RunConfig

HORIZON = 8


@pytest.fixture(scope="session", autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests train with is not noted in the user's own configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(scope="session")
def ml_raw() -> Path:
    """The official MovieLens 100K files, which are not shipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-100k"
    if not (folder / "u.data").is_file():
        pytest.skip(f"MovieLens 100K is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def small_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small made-up raw files in MovieLens' form; tests must not change them."""
    return write_movielens(tmp_path_factory.mktemp("small") / "raw")


@pytest.fixture(scope="session")
def small_data(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared folder of `small_raw` at horizon 8; tests must not change it."""
    folder = tmp_path_factory.mktemp("small") / "prepared"
    prepare(Settings("movielens", small_raw, HORIZON), folder)
    return folder


@pytest.fixture(scope="session")
def trained(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[RunConfig], Path]:
    """`trained(config)`: the folder of a run of `small_data`; tests must not change it.

    Each configuration is trained once.
    """
    runs: dict[str, Path] = {}

    def run(config: RunConfig) -> Path:
        key = config.sha256()
        if key not in runs:
            folder = tmp_path_factory.mktemp("trained") / "run"
            tiny.train(config, small_data, folder)
            runs[key] = folder
        return runs[key]

    return run
