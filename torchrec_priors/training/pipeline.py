"""Moves batches to the device, one by one or overlapped with the training steps before them.

The plain pipeline copies a batch to the device when its step begins. The staged pipelines work
ahead on a GPU. While a step computes, they use separate CUDA streams to copy later batches to the
device and to send their ids to the ranks that hold the rows (the all-to-all of TorchRec's
sparse-dist pipelines). If tables are in the host's memory with a cache of rows on the GPU,
"prefetch" also fills the cache one step ahead.

    during step i      plain      sparse-dist    prefetch
    copy to device     batch i    batch i + 2    batch i + 3
    send ids           batch i    batch i + 1    batch i + 2
    fill caches                                  batch i + 1
    compute            batch i    batch i        batch i

A step still reads the values that the step before has written to the tables, so all pipelines give
the same results, bit by bit.

TorchRec's `StagedTrainPipeline` runs the stages. `SparseDataDistUtil` changes the forward of the
sharded tables, so that it takes the ids that were sent ahead. A staged pipeline runs from one
evaluation to the next and is empty in between. So an evaluation, which looks rows up itself, finds
no ids of another batch in the tables and no rows in the cache that wait for a later step.

A checkpoint only counts completed steps. Batches in the pipeline are read again after a resume.
"""

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torchrec.distributed.train_pipeline.pipeline_stage import PipelineStage, SparseDataDistUtil
from torchrec.distributed.train_pipeline.train_pipelines import StagedTrainPipeline
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from torchrec_priors.data.batch import Batch
from torchrec_priors.embedding.dedup import StepIds
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.embedding.looked_up import LookedUp
from torchrec_priors.errors import UserError
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.training.built import Built

log = logging.getLogger(__name__)

PipelineKind = Literal["auto", "plain", "sparse-dist", "prefetch"]


class Pipeline(Protocol):
    """The interface of the pipelines."""

    def run(self, batches: Iterator[Batch], steps: int) -> Generator[Batch, None, None]:
        """Yields the next `steps` batches, on the device, and takes no more from `batches`.

        Every rank must ask for the same number of steps. Train on each batch before taking the next
        one, and close the generator.
        """

    def look_up(self, batch: Batch) -> LookedUp:
        """Looks up the rows of the batch that `run` yielded last."""


def pipeline_of(built: Built, kind: PipelineKind) -> Pipeline:
    """Creates the pipeline of a run.

    Args:
        kind: the setting `training.pipeline`.

    Raises:
        UserError: the tables or the device do not support this kind of pipeline.
    """
    cuda = built.ranks.device.type == "cuda"
    cached = built.plan.cached
    managed = not isinstance(built.model.item_rows, ItemRows)

    if managed and kind not in ("auto", "plain"):
        raise UserError(
            f"training.pipeline = '{kind}': with embedding.unseen = 'managed' a step's ids depend"
            " on what the steps before admitted: use plain"
        )
    if managed and kind == "auto" and cuda:
        log.info(
            "batches are not sent ahead of their steps:"
            " managed tables admit items from step to step"
        )

    if managed or (kind == "auto" and not cuda):
        kind = "plain"
    elif kind == "auto":
        kind = "prefetch" if cached else "sparse-dist"

    if kind == "prefetch" and not cached:
        raise UserError(
            "training.pipeline = 'prefetch' fills a GPU's cache of rows, which no table has:"
            " use sparse-dist, or sharding.kernel = 'fused_uvm_caching' on a GPU"
        )
    if kind == "plain":
        return _Plain(built)
    return _Staged(built, prefetch=kind == "prefetch")


class _Plain:
    """Copies each batch to the device when its step begins."""

    def __init__(self, built: Built) -> None:
        self._model = built.model
        self._device = built.ranks.device

    def run(self, batches: Iterator[Batch], steps: int) -> Generator[Batch, None, None]:
        return (batch.to(self._device) for batch in islice(batches, steps))

    def look_up(self, batch: Batch) -> LookedUp:
        return self._model.look_up(batch)


@dataclass(frozen=True)
class _InTransit(Pipelineable):
    """A batch on the device that is in the stages of a pipeline.

    TorchRec traces which attributes `_Lookups` reads; these are `items` and `features`.

    Attributes:
        batch: the batch.
        ids: the ids that the batch looks up in the tables.
    """

    batch: Batch
    ids: StepIds

    @property
    def items(self) -> KeyedJaggedTensor:
        return self.ids.items[0]

    @property
    def features(self) -> KeyedJaggedTensor | None:
        if self.ids.features is None:
            return None
        return self.ids.features[0]

    def to(self, device: torch.device, non_blocking: bool) -> "_InTransit":
        raise NotImplementedError("it is made on the device")

    def record_stream(self, stream: torch.Stream) -> None:
        if stream.device.type == "cpu":
            return

        self.batch.record_stream(stream)
        for request in (self.ids.items, self.ids.features):
            if request is None:
                continue
            ids, positions = request
            ids.record_stream(stream)
            for position in positions.values():
                position.record_stream(stream)


class _Lookups(nn.Module):
    """A module with only the lookups of a step.

    TorchRec traces it to find the tables whose ids it can send ahead.
    """

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.table = model.table
        self.features = None if model.features is None else model.features.table

    def forward(self, batch: _InTransit) -> list[dict[str, JaggedTensor]]:
        answers = [self.table(batch.items)]
        if self.features is not None:
            answers.append(self.features(batch.features))
        return answers


class _NoStream(torch.cpu.Stream):
    """Replaces a CUDA stream on a CPU, where the stages run one after another."""

    device = torch.device("cpu")


class _Staged:
    """Moves batches through TorchRec's stages.

    On a CPU the same stages run without streams, so that they can be tested there. Only the stage
    that fills caches and the streams themselves (`_streams`) need a GPU.
    """

    def __init__(self, built: Built, *, prefetch: bool) -> None:
        self._model = built.model
        self._ranks = built.ranks
        self._prefetch = prefetch
        self._cuda = built.ranks.device.type == "cuda"
        self._copying, self._sending, self._filling = self._streams()
        self._present: _InTransit | None = None
        self._sent: SparseDataDistUtil[Any] | None = None

    def _streams(self) -> list[Any]:
        """Returns three streams: to copy batches, to send ids, and to fill caches."""
        if not self._cuda:
            return [_NoStream() for _ in range(3)]
        device = self._ranks.device
        return [torch.cuda.Stream(device, priority=priority) for priority in (0, -1, -1)]

    def run(self, batches: Iterator[Batch], steps: int) -> Generator[Batch, None, None]:
        prefetch_stream = self._filling if self._prefetch else None
        sent = SparseDataDistUtil(
            _Lookups(self._model), self._sending, prefetch_stream=prefetch_stream
        )
        self._sent = sent

        computing: Any = _NoStream()
        if self._cuda:
            computing = torch.cuda.current_stream(self._ranks.device)
            # Rows are read on this stream. By default, TorchRec would create another one for that.
            sent._default_stream = computing
        else:
            sent.data_dist_stream = None  # as in TorchRec's own pipelines on CPUs

        pipeline = StagedTrainPipeline(self._stages(sent), compute_stream=computing)
        next_batches = islice(batches, steps)
        try:
            while True:
                in_transit = pipeline.progress(next_batches)
                if in_transit is None:
                    break
                self._present = in_transit
                yield in_transit.batch
        finally:
            self._present = None
            sent.detach()

    def _stages(self, sent: SparseDataDistUtil[Any]) -> list[PipelineStage]:
        sending = PipelineStage(
            "send ids", self._send, self._sending, fill_callback=sent.wait_sdd_fill_callback
        )
        stages = [PipelineStage("copy", self._copy, self._copying), sending]
        if self._prefetch:
            stages.append(PipelineStage("fill caches", sent.prefetch, self._filling))
        return stages

    def look_up(self, batch: Batch) -> LookedUp:
        assert self._present is not None, "called outside `run`"
        assert self._sent is not None, "called outside `run`"
        assert batch is self._present.batch, "each batch of `run` has its step before the next"

        looked_up = self._model.look_up(batch, self._present.ids)
        # The tables have used the ids of this batch. From here on they may take the next batch's.
        self._sent.wait_sdd_fill_callback()
        return looked_up

    def _copy(self, batch: Batch) -> _InTransit:
        on_device = batch.to(self._ranks.device)
        return _InTransit(on_device, self._model.step_ids(on_device))

    def _send(self, in_transit: _InTransit) -> _InTransit:
        self._ranks.where.doing = "ids of the next batch (all-to-all)"
        assert self._sent is not None
        return self._sent.start_sparse_data_dist(in_transit)
