"""Opens a trained run to read it, as `evaluate`, `recommend` and `export` do."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks, join
from torchrec_priors.remote.uri import Place, place_of
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.build import build_model
from torchrec_priors.training.built import Built
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.checkpoint.keys import MANIFEST
from torchrec_priors.training.checkpoint.weights import load_weights
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.in_a_store import local_run


@dataclass(frozen=True)
class OpenRun:
    """A trained run that was checked against its records; its model is not loaded yet.

    Attributes:
        folder: the run's folder.
        config: the configuration that the run was trained with, except that `evaluate` may change
            its section `evaluation`.
        data: the data set that the run was trained on. It may have grown since then.
    """

    folder: RunFolder
    config: RunConfig
    data: PreparedData

    def join_ranks(self) -> AbstractContextManager[Ranks]:
        """Logs how the run treats items that are newer than it, then joins the launcher's ranks."""
        self.folder.say_grown(self.config, self.data)
        return join(timedelta(seconds=self.config.training.timeout_seconds))

    def build(self, ranks: Ranks) -> Built:
        """Builds the model on all ranks, without weights: call `load_best` next.

        Every rank must call it.
        """
        trained = self.folder.trained_on(self.config, self.data)
        return build_model(self.config, self.data, ranks, trained=trained, for_training=False)

    def load_best(self, built: Built) -> str:
        """Loads the weights of the best checkpoint; returns its name. Every rank must call it.

        An item LLM then reads the texts of all items, unless their vectors are in the run's folder.

        Raises:
            UserError: the run has no best checkpoint yet, or its files are damaged.
        """
        if self.folder.was_pushed:
            return load_weights(self.folder.path, built)
        checkpoints = Checkpoints(self.folder.checkpoints, built.ranks)
        name = checkpoints.load_best(built)
        if self.config.items.encoder:
            identity = sha256(checkpoints.folder.path / name / MANIFEST)
            built.describe_items(self.folder.item_vectors(identity), identity)
        return name


def open_run(
    path: Place | str,
    data: Place | str | None = None,
    *,
    trust: bool = False,
    plain: bool = False,
) -> OpenRun:
    """Opens a run's folder, reads its configuration and data set, and checks both.

    Args:
        path: the folder or URI of the run. From a store, its best checkpoint is fetched.
        data: the folder or URI of the prepared data set, if it has moved since training.
        trust: whether to run the custom code that the run was trained with, even if this user has
            never trained with this code.
        plain: whether the run may be a plain baseline, which has no model to build.

    Raises:
        UserError: `path` holds no run, the run was trained on other data, its custom code is not
            trusted, or it is a plain baseline and may not be one.
    """
    folder = RunFolder(local_run(place_of(path, "--run")), trust)
    config, prepared = folder.open(data)
    if config.plain.name and not plain:
        raise UserError(
            f"--run: '{path}' is a plain baseline ({config.plain.name}), which has no model to "
            "load: only evaluate, experiment and report read it"
        )
    return OpenRun(folder, config, prepared)
