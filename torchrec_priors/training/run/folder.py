"""The folder of a run: its configuration, which data it was trained on, its logs and its checkpoints."""

import hashlib
import json
import logging
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import check_no_link
from torchrec_priors.common.own_code import check_trusted
from torchrec_priors.config import RunConfig
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.uri import Place
from torchrec_priors.settings.training import MAY_CHANGE
from torchrec_priors.training.run.config_file import read_config, write_config
from torchrec_priors.training.run.origin import FORMAT, Ancestor, Origin, read_origin, write_origin
from torchrec_priors.training.run.seen import read_seen

log = logging.getLogger(__name__)

CONFIG = "config.toml"
DATA = "data.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
PATHS = "paths.json"
SHARDING = "sharding.json"
SEEN = "seen.parquet"
TRAINED = "trained.parquet"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
_BEFORE_CONFIG = (
    PATHS,
    SEEN,
    TRAINED,
    DATA,
    CHECKPOINTS,
    LOCK,
)  # what there may be before a run has its configuration
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
        return self.path / CHECKPOINTS

    @property
    def paths(self) -> Path:
        """See `training/run/paths.py`."""
        return self.path / PATHS

    @property
    def seen(self) -> Path:
        """See `training/run/seen.py`."""
        return self.path / SEEN

    def trained_on(self, config: RunConfig, data: PreparedData) -> TrainedOn:
        """What a run that was started knows of `data`.

        Raises:
            UserError: a file of it cannot be read.
        """
        origin = self.origin()
        self.check_whole(self.paths, origin)
        state = _earlier_state(data, origin)
        items = data.items if state is None else int(state["items"])
        if config.embedding.unseen in ("own", "managed"):
            seen_I = None if state is None else np.ones(items, bool)
        else:
            self.check_whole(self.seen, origin)
            seen_I = read_seen(self.seen, items)
        return TrainedOn(self.paths, items, seen_I, None if state is None else origin.groups)

    @property
    def trained(self) -> Path:
        """See `training/run/ancestry.py`."""
        return self.path / TRAINED

    def check_whole(self, file: Path, origin: Origin) -> None:
        """Raises UserError where a file whose checksum was recorded is missing, or not as it was written."""
        recorded = origin.files.get(file.name)
        if recorded is None:
            return
        if not file.is_file():
            raise UserError(f"'{file}' is missing: put it back, or train again")
        if sha256(file) != recorded:
            raise UserError(
                f"'{file}' is damaged (it does not match its checksum): put it back, or train again"
            )

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
    def events(self) -> Path:
        """TensorBoard's."""
        return self.path / "events"

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY

    def evaluation(self, split: str, name: str | None = None) -> Path:
        """Where an evaluation of a split is kept, beside others of other names."""
        return self.path / "eval" / (split if name is None else f"{split}-{name}")

    def check_writable(self) -> None:
        """Raises UserError where what is written to the run would leave its folder, through a link in it."""
        evaluations = self.path / "eval"
        for folder in (self.checkpoints, self.events, evaluations, *evaluations.glob("*")):
            check_no_link(folder, self.path)

    def check_same_run(self, config: RunConfig, data: PreparedData) -> None:
        """Raises UserError where the folder holds something other than a run of these, or damaged files of one."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--run: '{self.path}' is a file: name a folder")
        if not self.was_started:
            self._check_unused()
            return

        self.check_writable()
        origin = self.origin()
        there = read_config(self.path / CONFIG, signed=origin.signed, run_id=origin.run_id)
        recorded = tomllib.loads(there.to_toml())  # with what later versions have added
        given = tomllib.loads(config.to_toml())
        recorded, given = (
            {k: v for k, v in each.items() if k not in _NOT_THE_RUN} for each in (recorded, given)
        )
        difference = _first_difference(recorded, given)
        if difference:
            raise UserError(
                f"--run: '{self.path}' holds a run of another configuration ({difference}): choose another folder"
            )

        if origin.content_sha256 != data.manifest.prepared_sha256:
            raise UserError(
                f"--run: '{self.path}' was trained on other data than '{data.folder}': choose another folder"
            )
        self._check_own_files(config, origin, trust=True)  # `config` is what the user gives
        self._check_priors(origin, data)

    def record(
        self,
        config: RunConfig,
        data: PreparedData,
        init_from: "RunFolder | None" = None,
        ancestors: list[Ancestor] | None = None,
    ) -> None:
        """Writes what decides the run, before its first step; of one that goes on, what was recorded stays.

        Args:
            ancestors: of a run that begins.
        """
        before = self.origin() if self.was_started else None
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        first = f"{config.to_toml_for_checksums()}\n{data.manifest.prepared_sha256}\n{data.manifest.added_priors()}"
        origin = Origin(
            path=str(data.folder.absolute()),
            content_sha256=data.manifest.prepared_sha256,
            priors=_added_priors(config, data),
            groups={prior.name: len(prior.groups) for prior in data.manifest.priors},
            events=data.manifest.events,
            init_from=None if init_from is None else str(init_from.path.absolute()),
            init_from_id=None if init_from is None else init_from.identity(),
            ancestors=ancestors,
            own_files={str(file): sha256(file) for file in config.own_files()},
            files={
                file.name: sha256(file)
                for file in (self.seen, self.trained, self.paths)
                if file.is_file()
            },
            run_id=hashlib.sha256(first.encode()).hexdigest()[:32],
            format=FORMAT,
        )
        if before is not None:
            origin = replace(
                origin,
                init_from=before.init_from,
                init_from_id=before.init_from_id or origin.init_from_id,
                ancestors=before.ancestors,
                files=before.files if before.signed else origin.files,
                run_id=before.run_id,
            )
        write_origin(self.path / DATA, origin)
        write_config(self.path / CONFIG, config, origin.run_id)

    def open(
        self, data_path: Place | str | None = None, option: str = "--run"
    ) -> tuple[RunConfig, PreparedData]:
        """The configuration and data of a run that was started; `option` is what named it.

        Raises:
            UserError: no run there, one whose files are damaged, `data_path` holds other data than it was trained on,
                or a prior that was added to the data, or a file of own code, is no longer what it was trained with, or
                a file of own code is not known to this user.
        """
        config, origin = self._recorded(option)
        self._check_own_files(config, origin, trust=self.trust)
        data = PreparedData(data_path or origin.path)
        if _earlier_state(data, origin) is not None:
            if origin.events is not None and data.manifest.events != origin.events:
                raise UserError(
                    f"'{data.folder}' has other event types than when '{self.path}' was trained: train again"
                )
        elif data.manifest.prepared_sha256 != origin.content_sha256:
            raise UserError(
                f"--data: '{data.folder}' is not the data that '{self.path}' was trained on, nor has grown from it"
            )
        self._check_priors(origin, data)
        return config, data

    def origin(self) -> Origin:
        """What the run recorded of its data.

        Raises:
            UserError: it is missing, or damaged.
        """
        return read_origin(self.path / DATA)

    def config(self, option: str = "--run") -> RunConfig:
        """The run's configuration.

        Raises:
            UserError: there is no run, or its files are damaged; `option` is what named it.
        """
        return self._recorded(option)[0]

    def identity(self) -> str:
        """Of the run by what decides it, wherever its folder and its data are.

        Raises:
            UserError: there is no run, or its files are damaged.
        """
        config, origin = self._recorded("--init-from")
        settings = tomllib.loads(config.to_toml_for_checksums())
        decides = {name: values for name, values in settings.items() if name not in _NOT_THE_RUN}
        decides["training"] = {
            name: value for name, value in settings["training"].items() if name not in MAY_CHANGE
        }
        of_data = [
            origin.content_sha256,
            origin.priors,
            sorted(origin.own_files.values()),
            origin.init_from_id,
        ]
        return hashlib.sha256(json.dumps([decides, of_data], sort_keys=True).encode()).hexdigest()

    def _recorded(self, option: str) -> tuple[RunConfig, Origin]:
        if not (self.path / CONFIG).is_file() and not (self.path / DATA).is_file():
            raise UserError(f"{option}: '{self.path}' holds no run (no {CONFIG}): train first")
        origin = self.origin()
        return read_config(self.path / CONFIG, signed=origin.signed, run_id=origin.run_id), origin

    def _check_unused(self) -> None:
        """Raises UserError where the folder holds anything but what a kill leaves of a run that was about to start."""
        if not self.path.exists():
            return
        left = [
            path
            for path in self.path.iterdir()
            if path.name not in _BEFORE_CONFIG and not _is_hidden_part(path)
        ]
        if (
            (self.path / DATA).is_file()
            and self.checkpoints.is_dir()
            and any(self.checkpoints.iterdir())
        ):
            raise UserError(
                f"--run: '{self.path / CONFIG}' is missing: put it back, or choose another folder"
            )
        if left:
            raise UserError(
                f"--run: '{self.path}' is not empty and holds no run: choose another folder"
            )

    def say_grown(self, config: RunConfig, data: PreparedData) -> None:
        """What becomes of items that came after the run was trained, where there are any."""
        state = _earlier_state(data, self.origin())
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
        log.info(
            "'%s' has %s items more than when '%s' was trained: %s",
            data.folder,
            f"{new:,}",
            self.path,
            becomes,
        )

    def _check_own_files(self, config: RunConfig, origin: Origin, *, trust: bool) -> None:
        check_trusted(config.own_files(), origin.own_files, self.path, trust=trust)

    def _check_priors(self, origin: Origin, data: PreparedData) -> None:
        there = data.manifest.added_priors()
        for name, checksum in origin.priors.items():
            if name not in there:
                raise UserError(
                    f"'{self.path}' was trained with prior '{name}', which '{data.folder}' lacks: add it again"
                )
            if checksum not in (there[name], *data.manifest.prior(name).grown_from):
                raise UserError(
                    f"prior '{name}' of '{data.folder}' has changed since '{self.path}' was trained:"
                    " make it as it was, or train again"
                )


def _added_priors(config: RunConfig, data: PreparedData) -> dict[str, str]:
    """Checksums of the priors added to the data that a run uses; a file of the user's own may read any of them."""
    named = {part for level in config.priors.tree for part in (level, *level.split(":"))}
    added = data.manifest.added_priors()
    return {
        name: checksum for name, checksum in added.items() if config.own_files() or name in named
    }


def _earlier_state(data: PreparedData, origin: Origin) -> dict[str, Any] | None:
    """The state that a data set has grown from since a run was trained on it; None where it is as it was."""
    if data.manifest.prepared_sha256 == origin.content_sha256:
        return None
    states = [
        state for state in data.manifest.grown if state["prepared_sha256"] == origin.content_sha256
    ]
    return states[-1] if states else None


def _is_hidden_part(path: Path) -> bool:
    """Whether it is a file of which a kill left a part."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    for key in sorted({*old, *new}):
        before = old.get(key)
        after = new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _first_difference(before, after, f"{prefix}{key}.")
            if inner:
                return inner
        elif before != after and f"{prefix}{key}" not in _MAY_CHANGE:
            return f"{prefix}{key} = {before!r} there, {after!r} here"
    return None
