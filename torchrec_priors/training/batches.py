"""Makes a run's batches, from windows of the data set and the negatives of each step.

    WindowOrder   which windows are in which global batch       `data/order.py`
         |
    read_chunks   the items of these windows, read in threads   `data/chunks.py`
         |
    WindowStream  this rank's windows of each batch             `data/windows.py`
         |
    leave_out     without items that have no row of the table   `data/left_out.py`
         |
    make_batch    with the negatives that the sampler draws     `data/batch.py`
         |
    ahead         a queue: a thread fills it during the steps   `data/prefetch.py`
         |
    Pipeline      on the device, ids perhaps sent ahead         `training/pipeline.py`

The negatives of a managed table depend on the items that earlier steps have admitted. For such a
table, only windows are queued, and a batch is made when its step asks for it.
"""

from collections.abc import Generator
from contextlib import closing

import numpy as np
import torch

from torchrec_priors.data.batch import Batch, make_batch
from torchrec_priors.data.left_out import leave_out
from torchrec_priors.data.prefetch import ahead
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.data.windows import Windows, WindowStream
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.sampling.group_sampler import Draw, GroupSampler
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.admission import Admission
from torchrec_priors.training.built import Built
from torchrec_priors.training.pace import Epoch


class Batches:
    """Makes this rank's part of every global batch."""

    def __init__(
        self,
        built: Built,
        config: RunConfig,
        data: PreparedData,
        negatives: GroupSampler | Admission,
    ) -> None:
        self.built = built
        self.config = config
        self.data = data
        self.negatives = negatives

    def after(self, step: int) -> Generator[Batch, None, None]:
        """Yields the batches that follow the first `step` steps.

        Close the generator to end its threads.
        """
        negatives = self.negatives
        prefetch = self.config.training.prefetch
        if not isinstance(negatives, Admission):
            return ahead(self._make(self._stream(step), negatives), prefetch)

        # Items that were noted since the last admission are not in a checkpoint: read them again.
        with closing(iter(self._stream(negatives.last_admission(step) + 1))) as again:
            negatives.catch_up(again, step)
        return self._make_on_demand(negatives, ahead(iter(self._stream(step)), prefetch))

    def epoch(self) -> Epoch:
        """Returns the size of an epoch, which is computed from the lengths of the histories."""
        order = self._stream(0).order
        return Epoch(order.steps_an_epoch, order.tokens)

    def _stream(self, first_step: int) -> WindowStream:
        config = self.config
        settings = self.config.training
        return WindowStream(
            self.data,
            context=config.model.context,
            horizon=config.model.horizon,
            batch=settings.batch,
            batch_tokens=settings.batch_tokens,
            seed=config.seed,
            share=self.built.ranks.share,
            balanced_for=config.model.dim if settings.balance == "length" else None,
            shuffled_row_groups=settings.shuffled_row_groups,
            first_step=first_step,
            columns=self.built.training_columns,
            training_end_U=training_ends(self.data, settings),
            moving=settings.moving_windows,
            shuffle_ties=settings.shuffle_ties,
            workers=settings.workers,
        )

    def _make(self, stream: WindowStream, sampler: GroupSampler) -> Generator[Batch, None, None]:
        """Yields batches of a table that is not managed; they do not depend on earlier steps."""
        device = self.built.ranks.device
        rows = self.built.model.item_rows
        with closing(iter(stream)) as windows_of_steps:
            for windows in windows_of_steps:
                if rows.has_row_I is not None:
                    windows = leave_out(windows, rows.has_row_I)
                batch = self._batch(windows, sampler.draw(windows.step))
                if device.type == "cuda":
                    # The current device of CUDA is set for each thread separately.
                    with torch.cuda.device(device):
                        batch = batch.pinned()
                yield batch

    def _make_on_demand(
        self, admission: Admission, stream: Generator[Windows, None, None]
    ) -> Generator[Batch, None, None]:
        """Yields batches of a managed table, each made when the caller asks for it.

        Their negatives depend on the items that earlier steps have admitted.
        """
        with closing(stream) as windows_of_steps:
            for windows in windows_of_steps:
                draw, own_ids = admission.draw(windows)
                yield self._batch(windows, draw, own_ids)

    def _batch(self, windows: Windows, draw: Draw, own_ids: np.ndarray | None = None) -> Batch:
        return make_batch(
            windows,
            draw,
            feature=FEATURE,
            seed=self.config.seed,
            parts=self.config.training.accumulate,
            to_ids=self.built.model.item_rows.to_ids,
            own_ids=own_ids,
        )
