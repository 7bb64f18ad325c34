"""Measures one rank of a case in a separate process, and prints a line of JSON (`Measured`)."""

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.bench.limits import bandwidth, link_bandwidth
from torchrec_priors.bench.sharding import sharded_table
from torchrec_priors.bench.timed import peak_bytes, print_result
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.embedding.item_table import FEATURE
from torchrec_priors.planning.measure import Measured
from torchrec_priors.ranks.process import Ranks, join
from torchrec_priors.settings.sharding import ShardingConfig

_TRIES = 5  # measurements of a bandwidth
_TINY = 1_000  # items of a table so small that its rows need hardly any memory
_RESET_PEAK = Path("/proc/self/clear_refs")


def main() -> None:
    case = json.loads(sys.argv[1])
    lookups = case["batch"] * case["per_window"] + case["more"]
    silence_library_warnings()
    torch.set_num_threads(case["threads"])
    with join() as ranks:
        # Other processes can only slow a measurement down, so the best one counts.
        memory_bandwidth = max(bandwidth(repeats=2) for _ in range(_TRIES))
        between_ranks = link_bandwidth(ranks.world, _TRIES)

        # Steps with a tiny table come first. Otherwise the memory that libraries allocate in the
        # first step would be counted as memory of the rows.
        before = _resident_from_here()
        tiny = _filled_table(_TINY, case["dim"], lookups, ranks)
        _time_steps(tiny, {**case, "items": _TINY}, ranks)
        del tiny
        step_memory = peak_bytes() - before
        gc.collect()

        before = _resident_from_here()
        parallel = _filled_table(case["items"], case["dim"], lookups, ranks)
        rows_memory = _resident() - before
        forward, backward = _time_steps(parallel, case, ranks)

    # The first step is slower, as it warms up, so it does not count.
    print_result(
        Measured(
            rows=rows_memory,
            step=step_memory,
            forward=min(forward[1:]),
            backward=min(backward[1:]),
            memory_bandwidth=memory_bandwidth,
            link_bandwidth=between_ranks,
        )
    )


def _filled_table(items: int, dim: int, lookups: int, ranks: Ranks) -> Any:
    """Returns a row-wise table over all ranks, after writing all its rows."""
    parallel, _ = sharded_table(items, dim, ranks, ShardingConfig(), lookups)
    for tensor in parallel.state_dict().values():
        for rows in tensor.to_local().local_shards():
            # Temporary copies would be counted as memory of the rows, so rows are filled in place.
            with torch.no_grad():
                rows.normal_(std=0.02)
    return parallel


def _time_steps(
    parallel: Any, case: dict[str, int], ranks: Ranks
) -> tuple[list[float], list[float]]:
    """Returns the seconds of every step, forward and backward; the first step is a warm-up."""
    table = parallel.module.table
    forward = []
    backward = []
    for step in range(case["repeats"] + 1):
        ids = _ids(case, seed=step * ranks.world + ranks.rank)

        # All ranks begin at the same time, so no rank waits for the ids of another one.
        dist.barrier()
        started = time.perf_counter()
        vectors = table(ids)[FEATURE].values()
        looked_up = time.perf_counter()
        vectors.backward(vectors.detach())  # any gradient would do
        forward.append(looked_up - started)
        backward.append(time.perf_counter() - looked_up)
    return forward, backward


def _ids(case: dict[str, int], seed: int) -> KeyedJaggedTensor:
    """Returns windows of random items. The first window also has the other lookups of the step."""
    lengths = torch.full((case["batch"],), case["per_window"], dtype=torch.int32)
    lengths[0] += case["more"]
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(0, case["items"], (int(lengths.sum()),), generator=generator)
    return KeyedJaggedTensor(keys=[FEATURE], values=items, lengths=lengths)


def _resident() -> int:
    """Returns the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _resident_from_here() -> int:
    """Returns the resident bytes, and sets the peak back to them."""
    _RESET_PEAK.write_text("5")  # Linux: sets the peak to the current value
    return _resident()


if __name__ == "__main__":
    main()
