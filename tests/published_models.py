"""Versions of two tiny runs whose scores differ, for tests of publishing and of the service that follows them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import tiny

from torchrec_priors.common.files import write_json
from torchrec_priors.config import parse
from torchrec_priors.publishing.files import checksum_of
from torchrec_priors.publishing.publish import publish
from torchrec_priors.serving.bulk import lines_of_users, recommend_in_bulk
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.settings.run_config import RunConfig

_SETTINGS = tiny.settings(
    model={"context": 20},
    priors={"tree": ["temporal:2", "genre"]},
    negatives={"per_set": 10},
    table={"init_std": 1.0},
    embedding={"unseen": "dropped", "min_frequency": 3},
    training={"batch": 8, "steps": 2},
    evaluation={"batch": 8},
)


def two_runs(trained: Callable[[RunConfig], Path]) -> tuple[Path, Path]:
    """The folders of both runs, from the fixture `trained`."""
    return trained(parse(_SETTINGS)), trained(parse({**_SETTINGS, "seed": 1}))


def publish_both(runs: tuple[Path, Path], folder: Path) -> Path:
    """Publishes them as `one` and `two`, of which `two` is current; returns the folder."""
    for run, name in zip(runs, ("one", "two"), strict=True):
        publish(run, folder, name)
    return folder


def bulk_answers(run: LoadedRun, out: Path, k: int) -> dict[int, list[tuple[int, float]]]:
    """What bulk recommends to each user: items with their scores."""
    lines = lines_of_users(run.data, run.data.user_texts().combine_chunks())
    recommend_in_bulk(run, lines, out, k=k)
    return {
        row["user_id"]: list(zip(row["items"], row["scores"], strict=True))
        for row in pq.read_table(out).to_pylist()
    }


def change_json(file: Path, change: Callable[[dict], None]) -> None:
    """Changes a JSON file and seals it again, as somebody who may write the folder can."""
    values = json.loads(file.read_text())
    del values["sha256"]
    change(values)
    write_json(file, values)


def reseal(version: Path) -> None:
    """Makes the manifest of a version describe its present files."""

    def describe(values: dict) -> None:
        for name in values["files"]:
            found = checksum_of(version / name)
            values["files"][name] = {"bytes": found.bytes, "sha256": found.sha256}

    change_json(version / "manifest.json", describe)


def copy_of(published: Path, folder: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(published, folder)
