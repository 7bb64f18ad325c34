"""Times lookups in MerRec's item table with all types of sharding, on 1, 2 and 4 ranks.

In a step, each rank looks up an equal part of ids that are drawn by Zipf's law. It returns a
gradient for every vector, and the fused optimizer applies the gradients. Forward ends when the
vectors have arrived, and backward when the rows have changed.
"""

import argparse
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.shapes import SHAPES
from torchrec_priors.bench.timed import (
    Timed,
    in_a_process,
    on_ranks,
    peak_bytes,
    print_result,
    repeat,
)
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.embedding.dedup import once
from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.item_table import FEATURE, Shard, fuse_optimizer, item_table
from torchrec_priors.embedding.own_rows import own_rows
from torchrec_priors.embedding.plan import ModelPlan
from torchrec_priors.ranks.process import Ranks, join
from torchrec_priors.settings.sharding import ROW_WISE, TYPES, ShardingConfig
from torchrec_priors.settings.table import TABLE

Report = Callable[[str], None]

_IDS = 1 << 15  # ids of a step, over all ranks
_WORLDS = (1, 2, 4)
_LEARNING_RATE = 0.05
_AT_ONCE = 1 << 16  # rows that are filled at a time
_OPTIONS = {"ids once": ["--dedup"], "fp16 between ranks": ["--communication", "fp16"]}


@dataclass(frozen=True)
class Lookups:
    """The table, and the ids that are looked up in it.

    Attributes:
        items, dim: the number and the width of the table's rows.
        ids: the number of ids of a step, over all ranks.
    """

    items: int = SHAPES["merrec"].items
    dim: int = SHAPES["merrec"].dim
    ids: int = _IDS

    def of_rank(self, ranks: Ranks) -> Tensor:
        """Returns the int64 ids of a rank; popular ids are scattered over the table."""
        generator = torch.Generator().manual_seed(0)
        position = torch.rand(self.ids, generator=generator, dtype=torch.float64)
        # The item with popularity rank r is drawn with a probability proportional to 1 / r.
        popularity_rank = (self.items**position).long().clamp(max=self.items - 1)
        # A multiplicative hash scatters popular items, as in a prepared data set.
        return (popularity_rank * 0x9E3779B1 % self.items).chunk(ranks.world)[ranks.rank]


def sharding_rows(repeats: int, threads: int, report: Report) -> list[Row]:
    """Measures every type of sharding on 1, 2 and 4 ranks, up to the number of threads.

    On the largest number of ranks, row-wise sharding is also measured with each option. `speedup`
    and `memory_ratio` compare with row-wise sharding on one rank. Memory means the bytes that the
    table has added to a rank's peak.
    """
    worlds = [world for world in _WORLDS if world <= max(threads, 2)]
    cases: list[tuple[int, str, str]] = [(world, kind, "") for world in worlds for kind in TYPES]
    cases += [(worlds[-1], ROW_WISE, option) for option in _OPTIONS]
    rows = []
    for world, kind, option in cases:
        ranks = "1 rank" if world == 1 else f"{world} ranks"
        name = ", ".join(filter(None, (kind, option, ranks)))
        report(f"sharding: {name}")
        arguments = [kind, "--repeats", str(repeats), *_OPTIONS.get(option, ())]

        threads_per_rank = max(1, threads // world)
        if world == 1:
            timed = in_a_process(name, __name__, arguments, threads_per_rank)
        else:
            timed = on_ranks(world, name, __name__, arguments, threads_per_rank)
        rows.append(Row.of("sharding", name, timed))
    return [_beside(row, rows[0]) for row in rows]


def time_lookups(sharding: ShardingConfig, lookups: Lookups, repeats: int) -> Timed:
    """Times steps on this rank.

    `results` is a checksum of all vectors of the first step, which must be the same for every type
    of sharding.
    """
    with join() as ranks:
        before = peak_bytes()
        per_rank = lookups.ids // ranks.world
        parallel, plan = sharded_table(lookups.items, lookups.dim, ranks, sharding, per_rank)
        for shard in own_rows(parallel, plan, ranks.device, ranks.side)[TABLE].shards:
            _fill(shard)
        table: Any = parallel.module.table
        ids = lookups.of_rank(ranks)
        forward: list[float] = []

        def run(number: int) -> float:
            started = time.perf_counter()
            vectors = _look_up(table, ids, sharding.dedup)
            forward.append(time.perf_counter() - started)
            vectors.backward(vectors.detach())
            return _checksum(vectors, ids, ranks) if number == 0 else 0.0

        # Counting and the checksum take time, so they are only done in the first run.
        with _counted(ranks) as sent:
            first = run(0)
        seconds, _ = repeat(lambda _: run(1), repeats)
        peak = peak_bytes()
    return Timed(
        seconds,
        [first],
        peak,
        len(ids),
        extra_bytes=peak - before,
        forward=forward[-repeats:],
        sent_bytes=sent[0],
    )


def sharded_table(
    items: int, dim: int, ranks: Ranks, sharding: ShardingConfig, lookups: int
) -> tuple[DistributedModelParallel, ModelPlan]:
    """Returns a module with an item table, `table`, that is sharded over all ranks, and its plan.

    Args:
        items, dim: the number and the width of the table's rows.
        ranks: the ranks over which the table is sharded.
        sharding: the sharding settings of a run.
        lookups: the number of ids that a rank looks up in a step.
    """
    model = nn.Module()
    model.table = item_table(items, dim)
    fuse_optimizer(model.table, _LEARNING_RATE)
    return distribute(model, ranks.device, sharding, lookups)


def _look_up(table: Any, ids: Tensor, dedup: bool) -> Tensor:
    """Looks up ids; with `dedup` each different id only once."""
    queried = KeyedJaggedTensor(keys=[FEATURE], values=ids, lengths=torch.tensor([len(ids)]))
    if not dedup:
        vectors: Tensor = table(queried)[FEATURE].values()
        return vectors

    queried, index_of = once(queried)
    distinct: Tensor = table(queried)[FEATURE].values()
    return distinct[index_of[FEATURE]]


def _fill(shard: Shard) -> None:
    """Writes numbers that depend only on row and column, so the table is always the same."""
    column = shard.first_column + torch.arange(shard.rows.shape[1])
    for start in range(0, len(shard.rows), _AT_ONCE):
        chunk = shard.rows[start : start + _AT_ONCE]
        row = shard.first + start + torch.arange(len(chunk))
        with torch.no_grad():
            chunk.copy_((7 * row[:, None] + 3 * column) % 101 / 1000 - 0.05)


def _checksum(vectors: Tensor, ids: Tensor, ranks: Ranks) -> float:
    """Returns a checksum of all ranks' vectors, each weighted by its id."""
    weight = 1.0 + (ids % 13).double()
    return float(ranks.total((vectors.detach().double().square().sum(1) * weight).sum()))


@contextmanager
def _counted(ranks: Ranks) -> Iterator[list[int]]:
    """Counts the bytes that this rank sends to others by all-to-all."""
    sent = [0]
    plain = dist.all_to_all_single

    def counting(*arguments: Any, **named: Any) -> Any:
        given = inspect.signature(plain).bind(*arguments, **named).arguments
        whole = given["input"]
        splits = given.get("input_split_sizes")
        # The rows that this rank sends to itself are not counted.
        kept_rows = splits[ranks.rank] if splits else len(whole) // ranks.world
        sent[0] += (whole.numel() - kept_rows * whole[:1].numel()) * whole.element_size()
        return plain(*arguments, **named)

    dist.all_to_all_single = counting
    try:
        yield sent
    finally:
        dist.all_to_all_single = plain


def _beside(row: Row, first: Row) -> Row:
    """Returns the row with ratios to the first one."""
    ratio = row.extra_bytes / first.extra_bytes if first.extra_bytes else None
    return replace(row, speedup=first.median_s / row.median_s, memory_ratio=ratio)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("type")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dedup", action="store_true")
    parser.add_argument("--communication", default="fp32")
    given = parser.parse_args()

    silence_library_warnings()
    torch.set_num_threads(given.threads)
    sharding = ShardingConfig(type=given.type, dedup=given.dedup, communication=given.communication)
    print_result(time_lookups(sharding, Lookups(), given.repeats))


if __name__ == "__main__":
    main()
