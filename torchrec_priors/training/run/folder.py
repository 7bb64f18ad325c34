"""The folder of a run: the names of its files, and what they record.

config.toml         the configuration; a folder with this file is a run         `config_file.py`
data.json           the data set, and the origin of the initial weights         `origin.py`
paths.json          training positives of each path, which decide the heads     `paths.py`
seen.parquet        items that occur often enough to have their own rows        `seen.py`
trained.parquet     the part of each history that was trained on                `ancestry.py`
sharding.json       the rows of the tables that each rank holds     `embedding/plan.py`
checkpoints/        the model at some steps                         `checkpoint/folder.py`
metrics.jsonl       losses and results of evaluations               `log_lines.py`
events/             the same numbers for TensorBoard
summary.json        how the training ended
eval/SPLIT/         metrics and predictions of `evaluate`
pushed.json         only in a run that was pushed, which has no checkpoints           `pushed.py`
.lock               held by the training that works in the folder   `claim.py`
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import check_no_link
from torchrec_priors.common.own_code import check_trusted
from torchrec_priors.errors import UserError, no_such_folder
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.remote.uri import Place
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.settings.training import MAY_CHANGE
from torchrec_priors.training.run import pushed
from torchrec_priors.training.run.config_file import read_config
from torchrec_priors.training.run.origin import Origin, read_origin
from torchrec_priors.training.run.recorded_data import (
    TrainedOn,
    check_content,
    check_priors,
    earlier_state,
    say_grown,
)
from torchrec_priors.training.run.same_settings import decisive_settings
from torchrec_priors.training.run.seen import read_seen

CONFIG = "config.toml"
DATA = "data.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
PATHS = "paths.json"
SHARDING = "sharding.json"
SEEN = "seen.parquet"
TRAINED = "trained.parquet"
CHECKPOINTS = "checkpoints"
BEST = "best.json"
ITEM_VECTORS = "item_vectors"
LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The paths of the files in a run's folder, and methods that read and check them.

    Attributes:
        path: the folder.
        trust: whether the user allows the files of custom code that the run names to be executed
            (`common/own_code.py`).
    """

    path: Path
    trust: bool = False

    def __str__(self) -> str:
        """Returns the path, as messages name a run."""
        return str(self.path)

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def item_vectors(self, identity: str) -> Path:
        """Returns the folder for what the item LLM of a checkpoint makes of items.

        Args:
            identity: a checksum of the checkpoint.
        """
        return self.path / ITEM_VECTORS / identity

    @property
    def paths(self) -> Path:
        """The file of training positives, described in `training/run/paths.py`."""
        return self.path / PATHS

    @property
    def seen(self) -> Path:
        """The file of seen items, described in `training/run/seen.py`."""
        return self.path / SEEN

    @property
    def trained(self) -> Path:
        """The file of the trained parts of histories, described in `training/run/ancestry.py`."""
        return self.path / TRAINED

    @property
    def sharding(self) -> Path:
        """The file of the plan, described in `embedding/plan.py`."""
        return self.path / SHARDING

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "events"

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY

    def evaluation(self, split: str, name: str | None = None) -> Path:
        """Returns the folder for the results of an evaluation.

        Args:
            split: the split that is evaluated.
            name: a name that distinguishes several evaluations of the same split.
        """
        return self.path / "eval" / (split if name is None else f"{split}-{name}")

    @property
    def was_pushed(self) -> bool:
        """Whether the folder holds a run as `push` writes it."""
        return (self.path / pushed.FILE).is_file()

    @property
    def popularity(self) -> Path:
        """The file of popular items, which only pushed runs have (`serving/popular.py`)."""
        return self.path / pushed.POPULARITY

    @property
    def was_started(self) -> bool:
        """Whether the folder holds a run, i.e. has the configuration, which is written last."""
        return (self.path / CONFIG).is_file()

    def origin(self) -> Origin:
        """Reads the run's record of its data and of the origin of its weights.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_origin(self.path / DATA)

    def config(self, option: str = "--run") -> RunConfig:
        """Reads the run's configuration.

        Args:
            option: the option that named the run, for messages.

        Raises:
            UserError: the folder holds no run, or its files are damaged.
        """
        return self._recorded(option)[0]

    def identity(self) -> str:
        """Returns a checksum of everything that decides the run's results.

        It does not depend on where the folder and the data are.

        Raises:
            UserError: the folder holds no run, or its files are damaged.
        """
        config, origin = self._recorded("--init-from")
        decisive = decisive_settings(config.to_toml_for_checksums())

        # Settings that may change when a run is resumed, such as the number of steps, do not count.
        decisive["training"] = {
            name: value for name, value in decisive["training"].items() if name not in MAY_CHANGE
        }

        # Checksums of contents are used, not paths, so that a run may be moved.
        data = [
            origin.content_sha256,
            origin.priors,
            sorted(origin.own_files.values()),
            origin.init_from_id,
        ]
        # Runs of earlier versions had no content.
        if origin.content:
            data.append({name: used.sha256 for name, used in origin.content.items()})
        return hashlib.sha256(json.dumps([decisive, data], sort_keys=True).encode()).hexdigest()

    def check_evaluated(self) -> Place | str:
        """Checks quickly that the folder holds a run that can be read, without its checkpoint.

        Returns:
            The place of the data set that the run recorded.

        Raises:
            UserError: the folder holds no run, its records are damaged, or it has no best
                checkpoint yet.
        """
        config, origin = self._recorded("--run")
        # A plain baseline is fitted again, and a pushed run has its weights in another file.
        has_checkpoints = not config.plain.name and not self.was_pushed
        if has_checkpoints and not (self.checkpoints / BEST).is_file():
            raise self.no_best_checkpoint()
        return self._recorded_data(origin)

    def no_best_checkpoint(self, option: str = "--run") -> UserError:
        """Returns the error for a run that was not evaluated yet.

        Args:
            option: the option that named the run.
        """
        return UserError(
            f"{option}: '{self}' has no best checkpoint yet: train until its first evaluation"
        )

    def open(
        self, data_path: Place | str | None = None, option: str = "--run"
    ) -> tuple[RunConfig, PreparedData]:
        """Opens the configuration and the data set of a run that was started.

        Args:
            data_path: the present path or URI of the data set; by default the one that the run
                recorded.
            option: the option that named the run, for messages.

        Raises:
            UserError: one of these is true:
                - The folder holds no run, or its files are damaged.
                - The data set is not the one that the run was trained on.
                - A prior that was added to the data set, or a file of custom code, has changed.
                - This user has not allowed a file of custom code to be executed.
        """
        config, origin = self._recorded(option)
        check_trusted(config.own_files(), origin.own_files, self.path, trust=self.trust)

        # The data set must be the same, or it must have grown since training (`prepare --append`).
        data = PreparedData(data_path or self._recorded_data(origin))
        if earlier_state(data, origin) is not None:
            if origin.events is not None and data.manifest.events != origin.events:
                raise UserError(
                    f"'{data.folder}' has different event types than when '{self.path}' was "
                    "trained: train again"
                )
        elif data.manifest.prepared_sha256 != origin.content_sha256:
            raise UserError(
                f"--data: '{data.folder}' is not the data that '{self.path}' was trained on, nor "
                "has grown from it"
            )

        check_priors(self.path, origin, data)
        check_content(self.path, origin, data, resumes=False)
        return config, data

    def trained_on(self, config: RunConfig, data: PreparedData) -> TrainedOn:
        """Returns the record that a run made of its data set when it started.

        Args:
            config: the run's configuration.
            data: the run's data set, which may have grown since then.

        Raises:
            UserError: a file of the run cannot be read.
        """
        origin = self.origin()
        self.check_whole(self.paths, origin)

        state = earlier_state(data, origin)
        items = data.items
        groups = None
        if state is not None:
            items = int(state["items"])
            groups = origin.groups

        # With "own" and "managed", the rows of items do not depend on how often items were seen.
        seen_I = None
        if config.embedding.unseen not in ("own", "managed"):
            self.check_whole(self.seen, origin)
            seen_I = read_seen(self.seen, items)
        elif state is not None:
            # The items that existed when the run started have rows. Items that were added later do
            # not.
            seen_I = np.ones(items, bool)
        return TrainedOn(self.paths, items, seen_I, groups)

    def say_grown(self, config: RunConfig, data: PreparedData) -> None:
        """Logs how the run treats items that were added after its training, if there are any."""
        say_grown(self.path, self.origin(), config, data)

    def check_whole(self, file: Path, origin: Origin) -> None:
        """Checks that a file matches the checksum that the run recorded, if it recorded one.

        Raises:
            UserError: the file is missing or damaged.
        """
        recorded = origin.files.get(file.name)
        if recorded is None:
            return
        if not file.is_file():
            raise UserError(f"'{file}' is missing: put it back, or train again")
        if sha256(file) != recorded:
            raise UserError(
                f"'{file}' is damaged (it does not match its checksum): put it back, or train again"
            )

    def check_writable(self) -> None:
        """Raises UserError if the folder contains a link through which files would be written
        elsewhere.
        """
        evaluations = self.path / "eval"
        for folder in (self.checkpoints, self.events, evaluations, *evaluations.glob("*")):
            check_no_link(folder, self.path)

    def _recorded(self, option: str) -> tuple[RunConfig, Origin]:
        if not (self.path / CONFIG).is_file() and not (self.path / DATA).is_file():
            if not self.path.is_dir():
                raise UserError(f"{option}: {no_such_folder(self.path)}")
            raise UserError(f"{option}: '{self.path}' holds no run (no {CONFIG}): train first")
        if self.was_pushed:
            pushed.check(self.path)
        origin = self.origin()
        config = read_config(self.path / CONFIG, signed=origin.signed, run_id=origin.run_id)
        return config, origin

    def _recorded_data(self, origin: Origin) -> Place | str:
        """Returns the place of the data set that a run recorded, or that was pushed with it."""
        return self.path / pushed.DATA if self.was_pushed else origin.path
