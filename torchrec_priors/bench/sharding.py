"""Lookups in MerRec's item table, cut in every way and over as many ranks as there are cores for.

A step asks for ids by Zipf's law, the ranks for equal parts of them, and gives a gradient for every vector back, which
the fused optimizer takes at once. Forward is until the vectors are there, backward until the rows are changed.
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
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.shapes import SHAPES
from torchrec_priors.bench.timed import Timed, in_a_process, on_ranks, peak_bytes, repeat, tell
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.embedding.dedup import once
from torchrec_priors.embedding.distribute import distribute
from torchrec_priors.embedding.item_table import FEATURE, Shard, fuse_optimizer, item_table
from torchrec_priors.embedding.own_rows import own_rows
from torchrec_priors.ranks.process import Ranks, join
from torchrec_priors.settings.sharding import ROW_WISE, TYPES, ShardingConfig
from torchrec_priors.settings.table import TABLE

Report = Callable[[str], None]

_IDS = 1 << 15  # of all ranks
_WORLDS = (1, 2, 4)
_AT_ONCE = 1 << 16
_OPTIONS = {"ids once": ["--dedup"], "fp16 between ranks": ["--communication", "fp16"]}


@dataclass(frozen=True)
class Lookups:
    """What is looked up.

    Attributes:
        items, dim: of the table.
        ids: of a step, over all ranks.
    """

    items: int = SHAPES["merrec"].items
    dim: int = SHAPES["merrec"].dim
    ids: int = _IDS

    def of_rank(self, ranks: Ranks) -> Tensor:
        """int64 ids; popular ones stand all over the table, as in a prepared data set."""
        generator = torch.Generator().manual_seed(0)
        position = torch.rand(self.ids, generator=generator, dtype=torch.float64)
        rank = (self.items**position).long().clamp(max=self.items - 1)  # as often as 1 / rank
        return (rank * 0x9E3779B1 % self.items).chunk(ranks.world)[ranks.rank]


def sharding_rows(repeats: int, threads: int, report: Report) -> list[Row]:
    """Every type on 1, 2 and 4 ranks, as many as there are threads for; on the most also row-wise with each option.

    `speedup` is row-wise's time on one rank by this; `memory_ratio` is that of what the table added to a rank's peak.
    """
    worlds = [world for world in _WORLDS if world <= max(threads, 2)]
    cases: list[tuple[int, str, str]] = [(world, kind, "") for world in worlds for kind in TYPES]
    cases += [(worlds[-1], ROW_WISE, option) for option in _OPTIONS]
    rows = []
    for world, kind, option in cases:
        name = ", ".join(filter(None, (kind, option, f"{world} rank{'s' * (world > 1)}")))
        report(f"sharding: {name}")
        arguments = [kind, "--repeats", str(repeats), *_OPTIONS.get(option, ())]
        each = max(1, threads // world)
        if world == 1:
            timed = in_a_process(name, __name__, arguments, each)
        else:
            timed = on_ranks(world, name, __name__, arguments, each)
        rows.append(Row.of("sharding", name, timed))
    return [_beside(row, rows[0]) for row in rows]


def time_lookups(sharding: ShardingConfig, lookups: Lookups, repeats: int) -> Timed:
    """Steps on this rank. `results` is a checksum of what all ranks find first, the same however the table is cut."""
    with join() as ranks:
        before = peak_bytes()
        model = nn.Module()
        model.table = item_table(lookups.items, lookups.dim)
        fuse_optimizer(model.table, 0.05)
        parallel, plan = distribute(model, ranks.device, sharding, lookups.ids // ranks.world)
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


def _look_up(table: Any, ids: Tensor, dedup: bool) -> Tensor:
    asked = KeyedJaggedTensor(keys=[FEATURE], values=ids, lengths=torch.tensor([len(ids)]))
    place: dict[str, Tensor] = {}
    if dedup:
        asked, place = once(asked)
    vectors: Tensor = table(asked)[FEATURE].values()
    return vectors[place[FEATURE]] if dedup else vectors


def _fill(shard: Shard) -> None:
    """Numbers that depend on row and column alone."""
    column = shard.first_column + torch.arange(shard.rows.shape[1])
    for start in range(0, len(shard.rows), _AT_ONCE):
        chunk = shard.rows[start : start + _AT_ONCE]
        row = shard.first + start + torch.arange(len(chunk))
        with torch.no_grad():
            chunk.copy_((7 * row[:, None] + 3 * column) % 101 / 1000 - 0.05)


def _checksum(vectors: Tensor, ids: Tensor, ranks: Ranks) -> float:
    """Of vectors at their ids."""
    weight = 1.0 + (ids % 13).double()
    return float(ranks.total((vectors.detach().double().square().sum(1) * weight).sum()))


@contextmanager
def _counted(ranks: Ranks) -> Iterator[list[int]]:
    """Counts bytes that this rank sends to others by all-to-all."""
    sent = [0]
    plain = dist.all_to_all_single

    def counting(*arguments: Any, **named: Any) -> Any:
        given = inspect.signature(plain).bind(*arguments, **named).arguments
        whole = given["input"]
        splits = given.get("input_split_sizes")
        kept = splits[ranks.rank] if splits else len(whole) // ranks.world
        sent[0] += (whole.numel() - kept * whole[:1].numel()) * whole.element_size()
        return plain(*arguments, **named)

    dist.all_to_all_single = counting
    try:
        yield sent
    finally:
        dist.all_to_all_single = plain


def _beside(row: Row, first: Row) -> Row:
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
    tell(time_lookups(sharding, Lookups(), given.repeats))


if __name__ == "__main__":
    main()
