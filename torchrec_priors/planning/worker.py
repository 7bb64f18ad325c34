"""One rank of a measured case, in a process of its own: prints one line of JSON (`Measured`)."""

import gc
import json
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.bench.limits import bandwidth
from torchrec_priors.bench.timed import peak_bytes
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.item_table import FEATURE, fuse_optimizer, item_table
from torchrec_priors.planning.measure import Measured
from torchrec_priors.ranks.process import Ranks, join

_SENT = 1 << 22  # floats of an all-to-all
_TRIES = 5
_TINY = 1_000  # items of a table that takes nothing itself
_MARK = Path("/proc/self/clear_refs")


class _Table(nn.Module):
    """The item table, looked up."""

    def __init__(self, table: EmbeddingCollection) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        vectors: Tensor = self.table(ids)[FEATURE].values()
        return vectors


def main() -> None:
    case = json.loads(sys.argv[1])
    silence_library_warnings()
    torch.set_num_threads(1)
    with join() as ranks:
        memory_bandwidth = max(bandwidth(repeats=2) for _ in range(_TRIES))
        link_bandwidth = _link_bandwidth(ranks)
        before = _resident_from_here()
        _steps(_filled(_TINY, case["dim"], ranks), {**case, "items": _TINY}, ranks)
        step_memory = peak_bytes() - before
        gc.collect()
        before = _resident_from_here()
        parallel = _filled(case["items"], case["dim"], ranks)
        rows_memory = _resident() - before
        forward, backward = _steps(parallel, case, ranks)
    found = Measured(
        rows=rows_memory,
        step=step_memory,
        forward=min(forward[1:]),
        backward=min(backward[1:]),
        memory_bandwidth=memory_bandwidth,
        link_bandwidth=link_bandwidth,
    )
    print(json.dumps(asdict(found)))  # noqa: T201


def _filled(items: int, dim: int, ranks: Ranks) -> nn.Module:
    """A row-wise table over all ranks whose rows have been written."""
    table = item_table(items, dim)
    fuse_optimizer(table, 0.01)
    parallel: nn.Module = distribute(_Table(table), ranks.device)[0]
    for tensor in parallel.state_dict().values():
        for rows in tensor.to_local().local_shards():
            with torch.no_grad():
                rows.normal_(std=0.02)
    return parallel


def _steps(
    parallel: nn.Module, case: dict[str, int], ranks: Ranks
) -> tuple[list[float], list[float]]:
    """Seconds forward and backward of every step; the first one has to warm up."""
    forward = []
    backward = []
    for step in range(case["repeats"] + 1):
        ids = _ids(case, seed=step * ranks.world + ranks.rank)
        dist.barrier()
        started = time.perf_counter()
        vectors = parallel(ids)
        looked_up = time.perf_counter()
        vectors.backward(vectors.detach())
        forward.append(looked_up - started)
        backward.append(time.perf_counter() - looked_up)
    return forward, backward


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _resident_from_here() -> int:
    """The same; its peak counts from here on."""
    _MARK.write_text("5")  # Linux: sets the peak to what there is
    return _resident()


def _link_bandwidth(ranks: Ranks) -> float:
    """Bytes a second of an all-to-all, this rank's own part counted as the planner counts it."""
    if ranks.world == 1:
        return 0.0
    sent = torch.zeros(_SENT)
    got = torch.empty(_SENT)
    seconds = []
    for _ in range(_TRIES):
        dist.barrier()
        started = time.perf_counter()
        dist.all_to_all_single(got, sent)
        seconds.append(time.perf_counter() - started)
    return 4 * _SENT / min(seconds)


def _ids(case: dict[str, int], seed: int) -> KeyedJaggedTensor:
    """Windows of random items; what a step reads besides stands in the first."""
    lengths = torch.full((case["batch"],), case["per_window"], dtype=torch.int32)
    lengths[0] += case["more"]
    items = torch.randint(
        0, case["items"], (int(lengths.sum()),), generator=torch.Generator().manual_seed(seed)
    )
    return KeyedJaggedTensor(keys=[FEATURE], values=items, lengths=lengths)


if __name__ == "__main__":
    main()
