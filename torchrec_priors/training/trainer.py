"""A model in training: its batches, its optimizers and its steps, without the training loop.

`batches` yields this rank's part of every global batch, `ready` moves the parts to the device, and
`step` trains on one part:

    with join() as ranks:
        trainer = Trainer(config, data, ranks)
        with closing(trainer.batches(0)) as batches:
            for batch in trainer.ready(batches, steps=100):
                result = trainer.step(batch)

`loop.py` adds evaluations, checkpoints, logs and resuming.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.pretrained import take_pretrained
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.encoder.llm import LLM
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.sampling.group_sampler import GroupSampler
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.admission import Admission
from torchrec_priors.training.batches import Batches
from torchrec_priors.training.build import build_model
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.checkpoint.keys import Progress
from torchrec_priors.training.loss_weights import set_loss_weights
from torchrec_priors.training.optimizers import Optimizers
from torchrec_priors.training.pace import Epoch
from torchrec_priors.training.pipeline import pipeline_of
from torchrec_priors.training.run.folder import RunFolder, TrainedOn
from torchrec_priors.training.sampler import make_sampler
from torchrec_priors.training.step import StepResult, step
from torchrec_priors.training.warm_start import start_from


class Trainer:
    """A model, its optimizers and its batches.

    Every rank must create a `Trainer` and call its methods in the same order.

    Attributes:
        built: the distributed model.
        optimizers: the optimizers of the tables and of the dense parameters.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        ranks: Ranks,
        *,
        trained: TrainedOn | None = None,
    ) -> None:
        """
        Args:
            trained: what the run recorded about its data when it first started; None for a new run.

        Raises:
            UserError: the configuration does not fit the data set or this machine.
        """
        self.config = config
        self.data = data
        self.ranks = ranks

        self.built = build_model(config, data, ranks, trained=trained)
        set_loss_weights(self.built, config)
        self._pipeline = pipeline_of(self.built, config.training.pipeline)
        self.optimizers = Optimizers(self.built, config)
        self._batches: Batches | None = None

    def resume(
        self, checkpoints: Checkpoints, init_from: RunFolder | None = None
    ) -> Progress | None:
        """Loads the newest checkpoint.

        If the run has no checkpoint yet, the pretrained vectors, the weights of language models and
        those of `init_from` are loaded instead, if the user named any. A frozen item LLM then reads
        the texts of all items, once.

        Args:
            init_from: the run from which a new run takes its initial weights.

        Returns:
            The progress stored in the checkpoint; None if there is no checkpoint.
        """
        progress = checkpoints.resume(self.built, self.optimizers)
        if progress is None:
            self._start(init_from)
        content = self.built.model.content
        if content is not None and not content.is_trained:
            self.built.describe_items()
        return progress

    def _start(self, init_from: RunFolder | None) -> None:
        """Loads the initial values of a new run that the user named."""
        if self.config.table.pretrained:
            vectors = Path(self.config.table.pretrained)
            take_pretrained(vectors, self.built.own, self.built.model.item_rows, self.data)
        encoder = self.built.model.encoder
        if isinstance(encoder, LLM) and self.config.encoder.llm.folder:
            encoder.take_weights(Path(self.config.encoder.llm.folder))
        content = self.built.model.content
        folder = self.config.items.llm.folder
        if folder and content is not None and isinstance(content.reader, ItemLLM):
            content.reader.take_weights(Path(folder))
        if init_from is not None:
            start_from(init_from, self.built, self.config, self.data, self.ranks)

    def prepare_batches(self) -> None:
        """Creates the batches and the sampler of negatives.

        The sampler draws from the rows that the table has at this moment, so call `resume` first.
        """
        parts = (self.built, self.config, self.data, self.ranks)
        negatives: Admission | GroupSampler
        if self.config.embedding.unseen == "managed":
            negatives = Admission(*parts)
        else:
            negatives = make_sampler(*parts)
        self._batches = Batches(self.built, self.config, self.data, negatives)

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Yields this rank's batches of `first_step` and all later steps, in the host's memory.

        Close the generator to end its threads.
        """
        if self._batches is None:
            self.prepare_batches()
        assert self._batches is not None
        return self._batches.after(first_step)

    def epoch(self) -> Epoch:
        """Returns the number of steps and of context items in an epoch."""
        if self._batches is None:
            self.prepare_batches()
        assert self._batches is not None
        return self._batches.epoch()

    def ready(self, batches: Iterator[Batch], steps: int) -> Generator[Batch, None, None]:
        """Yields the next `steps` batches, on the device.

        The ids of a batch may be sent to other ranks one step early (`pipeline.py`). So train on
        each batch before taking the next one, and close the generator.
        """
        return self._pipeline.run(batches, steps)

    def step(
        self, batch: Batch, *, flags: Sequence[bool] = (), max_loss: float = math.inf
    ) -> StepResult:
        """Trains on a batch that `ready` yielded; see `step` in `step.py`."""
        return step(
            self.built,
            self.optimizers,
            batch,
            flags=flags,
            max_loss=max_loss,
            look_up=self._pipeline.look_up,
        )
