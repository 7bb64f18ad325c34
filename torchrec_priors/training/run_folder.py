"""The folder of a run: its configuration, which data it was trained on, its logs and its checkpoints."""

import json
import logging
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.config import RunConfig, parse
from torchrec_priors.data.manifest import sha256
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.files import write_whole
from torchrec_priors.own_code import check_trusted
from torchrec_priors.remote.uri import Place
from torchrec_priors.training.seen import read_seen
from torchrec_priors.training.settings import MAY_CHANGE

log = logging.getLogger(__name__)

CONFIG, DATA, METRICS, SUMMARY, PATHS = "config.toml", "data.json", "metrics.jsonl", "summary.json", "paths.json"
SHARDING = "sharding.json"
_NOT_THE_RUN = ("sharding",)  # sections that a run may be gone on with under others of

_MAY_CHANGE = {f"training.{name}" for name in MAY_CHANGE}


@dataclass(frozen=True)
class TrainedOn:
    """What a run that was started recorded of its data.

    Attributes:
        paths: file of the training positives of its paths.
        items: how many items the data set had.
        seen_I: bool, those that were seen often enough; None where all that there are have rows of their own.
        groups: how many groups each prior had, where the data set has grown since; else None.
    """

    paths: Path
    items: int
    seen_I: np.ndarray | None
    groups: dict[str, int] | None


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder, and what is recorded there.

    Attributes:
        trust: whether the user said that files of own code may run that the run names (see `own_code`).
    """

    path: Path
    trust: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def paths(self) -> Path:
        """See `training/paths.py`."""
        return self.path / PATHS

    @property
    def seen(self) -> Path:
        """See `training/seen.py`."""
        return self.path / "seen.parquet"

    def trained_on(self, config: RunConfig, data: PreparedData) -> TrainedOn:
        """What a run that was started knows of `data`.

        Raises:
            UserError: a file of it cannot be read.
        """
        origin = self._data()
        state = _earlier_state(data, origin)
        items = data.items if state is None else int(state["items"])
        if config.embedding.unseen in ("own", "managed"):
            seen_I = None if state is None else np.ones(items, bool)
        else:
            seen_I = read_seen(self.seen, items)
        return TrainedOn(self.paths, items, seen_I, None if state is None else origin.get("groups", {}))

    @property
    def sharding(self) -> Path:
        """See `embedding/plan.py`."""
        return self.path / SHARDING

    @property
    def was_started(self) -> bool:
        return (self.path / CONFIG).is_file()

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY

    def evaluation(self, split: str, name: str | None = None) -> Path:
        """Where an evaluation of a split is kept, beside others of other names."""
        return self.path / "eval" / (split if name is None else f"{split}-{name}")

    def check_same_run(self, config: RunConfig, data: PreparedData, init_from: "RunFolder | None" = None) -> None:
        """Raises UserError where the folder holds something other than a run of these."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--run: '{self.path}' is a file: name a folder")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not (self.path / CONFIG).is_file():
            raise UserError(f"--run: '{self.path}' is not empty and holds no run: choose another folder")
        there = parse(tomllib.loads((self.path / CONFIG).read_text(encoding="utf8")))
        recorded = tomllib.loads(there.to_toml())  # with what later versions have added
        given = tomllib.loads(config.to_toml())
        recorded, given = ({k: v for k, v in each.items() if k not in _NOT_THE_RUN} for each in (recorded, given))
        difference = _first_difference(recorded, given)
        if difference:
            raise UserError(
                f"--run: '{self.path}' holds a run of another configuration ({difference}): choose another folder"
            )
        if not (self.path / DATA).is_file():
            return
        origin = self._data()
        if origin["content_sha256"] != data.manifest.prepared_sha256:
            raise UserError(
                f"--run: '{self.path}' was trained on other data than '{data.folder}': choose another folder"
            )
        self._check_own_files(config, origin, trust=True)  # `config` is what the user gives
        self._check_priors(origin, data)
        started = origin.get("init_from")
        if started != _where(init_from):
            how = f"was started from '{started}'" if started else "was not started from another run"
            raise UserError(f"--init-from: '{self.path}' {how}: choose another folder for --run")

    def record(self, config: RunConfig, data: PreparedData, init_from: "RunFolder | None" = None) -> None:
        """Writes what decides the run, before its first step."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        origin = {
            "path": str(data.folder.absolute()),
            "content_sha256": data.manifest.prepared_sha256,
            "priors": _added_priors(config, data),
            "groups": {prior.name: len(prior.groups) for prior in data.manifest.priors},
            "events": data.manifest.events,
            "init_from": _where(init_from),
            "own_files": {str(file): sha256(file) for file in config.own_files()},
        }
        write_whole(self.path / DATA, json.dumps(origin, indent=1) + "\n")
        write_whole(self.path / CONFIG, config.to_toml())

    def open(self, data_path: Place | str | None = None, option: str = "--run") -> tuple[RunConfig, PreparedData]:
        """The configuration and data of a run that was started; `option` is what named it.

        Raises:
            UserError: no run there, `data_path` holds other data than it was trained on, or a prior that was added to
                the data, or a file of own code, is no longer what it was trained with, or a file of own code is not
                known to this user.
        """
        if not (self.path / CONFIG).is_file() or not (self.path / DATA).is_file():
            raise UserError(f"{option}: '{self.path}' holds no run (no {CONFIG}): train first")
        try:
            config = parse(tomllib.loads((self.path / CONFIG).read_text(encoding="utf8")))
            origin = self._data()
        except (tomllib.TOMLDecodeError, json.JSONDecodeError, KeyError) as error:
            raise UserError(f"{option}: '{self.path}' cannot be read ({error}): train again") from error
        self._check_own_files(config, origin, trust=self.trust)
        data = PreparedData(data_path or origin["path"])
        if _earlier_state(data, origin) is not None:
            if data.manifest.events != origin.get("events", data.manifest.events):
                raise UserError(
                    f"'{data.folder}' has other event types than when '{self.path}' was trained: train again"
                )
        elif data.manifest.prepared_sha256 != origin["content_sha256"]:
            raise UserError(
                f"--data: '{data.folder}' is not the data that '{self.path}' was trained on, nor has grown from it"
            )
        self._check_priors(origin, data)
        return config, data

    def say_grown(self, config: RunConfig, data: PreparedData) -> None:
        """What becomes of items that came after the run was trained, where there are any."""
        state = _earlier_state(data, self._data())
        new = 0 if state is None else data.items - int(state["items"])
        if not new:
            return
        becomes = {
            "own": "they have no rows: left out, never recommended (embedding.unseen may be dropped, shared, hashed "
            "or managed)",
            "dropped": "left out and never recommended",
            "shared": "they have the shared row and are never recommended",
            "hashed": "they have hashed rows",
            "managed": "they have no rows of their own and are not recommended until training meets them",
        }[config.embedding.unseen]
        log.info("'%s' has %s items more than when '%s' was trained: %s", data.folder, f"{new:,}", self.path, becomes)

    def _check_own_files(self, config: RunConfig, origin: dict[str, Any], *, trust: bool) -> None:
        check_trusted(config.own_files(), origin.get("own_files", {}), self.path, trust=trust)

    def _check_priors(self, origin: dict[str, Any], data: PreparedData) -> None:
        there = data.manifest.added_priors()
        for name, checksum in origin.get("priors", {}).items():
            if name not in there:
                raise UserError(
                    f"'{self.path}' was trained with prior '{name}', which '{data.folder}' lacks: add it again"
                )
            if checksum not in (there[name], *data.manifest.prior(name).grown_from):
                raise UserError(
                    f"prior '{name}' of '{data.folder}' has changed since '{self.path}' was trained:"
                    " make it as it was, or train again"
                )

    def _data(self) -> dict[str, Any]:
        origin: dict[str, Any] = json.loads((self.path / DATA).read_text(encoding="utf8"))
        return origin


def write_json(file: Path, values: dict[str, Any]) -> None:
    """One of the files of a run's folder, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _added_priors(config: RunConfig, data: PreparedData) -> dict[str, str]:
    """Checksums of the priors added to the data that a run uses; a file of the user's own may read any of them."""
    named = {part for level in config.priors.tree for part in (level, *level.split(":"))}
    added = data.manifest.added_priors()
    return {name: checksum for name, checksum in added.items() if config.own_files() or name in named}


def _earlier_state(data: PreparedData, origin: dict[str, Any]) -> dict[str, Any] | None:
    """The state that a data set has grown from since a run was trained on it; None where it is as it was."""
    if data.manifest.prepared_sha256 == origin["content_sha256"]:
        return None
    states = [state for state in data.manifest.grown if state["prepared_sha256"] == origin["content_sha256"]]
    return states[-1] if states else None


def _where(run: RunFolder | None) -> str | None:
    return None if run is None else str(run.path.absolute())


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _first_difference(before, after, f"{prefix}{key}.")
            if inner:
                return inner
        elif before != after and f"{prefix}{key}" not in _MAY_CHANGE:
            return f"{prefix}{key} = {before!r} there, {after!r} here"
    return None
