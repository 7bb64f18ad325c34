"""The rows of a table that a rank answers for, wherever they are.

Negatives, retrieval and `--init-from` give each rank a block of rows, the same ones that row-wise shards would be.
Where the table is cut so, the rank holds them, and reads and writes them in place. Cut otherwise, they are with other
ranks: `fetch` copies a block together and `store` takes it back to where it belongs, by all-to-all, some rows at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchrec.distributed.embedding import ShardedEmbeddingCollection

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.embedding.plan import ModelPlan, Piece, TablePlan, even_blocks

_ROWS_AT_A_TIME = 1 << 16  # of each block


@dataclass(frozen=True)
class OwnRows:
    """This rank's part of one table.

    Attributes:
        plan: who holds what of it.
        shards: what this rank holds, live views.
        rank: this one.
        blocks: [first, last) of the rows that each rank answers for.
        live: the shard that is this rank's block, where each rank holds its own; else None.
        device: where the table is.
        group: the ranks, for `fetch` and `store`.
        flush: writes back what a GPU's cache of rows holds.
    """

    plan: TablePlan
    shards: list[Shard]
    rank: int
    blocks: list[tuple[int, int]]
    live: Shard | None
    device: torch.device
    group: dist.ProcessGroup
    flush: Callable[[], None]

    @property
    def first(self) -> int:
        return self.blocks[self.rank][0]

    @property
    def last(self) -> int:
        """One past the last row."""
        return self.blocks[self.rank][1]

    def __len__(self) -> int:
        return self.last - self.first

    def fetch(self) -> Shard:
        """The rows as they are now: a live view, or a copy that later steps do not change. Every rank must call it."""
        self.flush()
        if self.live is not None:
            return self.live
        block = Shard(
            torch.empty(len(self), self.plan.table.columns, device=self.device), self.first
        )
        for held_W, asked_W in self._moves(block):
            self._swap(held_W, asked_W)
        return block

    def store(self, block: Shard) -> None:
        """Makes rows that were fetched, and changed since, those of the table. Every rank must call it."""
        if self.live is not None:
            assert block is self.live, "a live view is changed in place"
            return
        for held_W, asked_W in self._moves(block):
            self._swap(asked_W, held_W)

    def _moves(self, block: Shard) -> Iterator[tuple[list[list[Tensor]], list[list[Tensor]]]]:
        """Views of the same values, some rows at a time: for each rank what is here of its block, and where in this
        rank's block that rank's pieces belong."""
        pieces = self.plan.pieces
        own = {(shard.first, shard.first_column): shard for shard in self.shards}
        longest = max(last - first for first, last in self.blocks)
        for start in range(0, longest, _ROWS_AT_A_TIME):
            windows = [
                (first + start, min(first + start + _ROWS_AT_A_TIME, last))
                for first, last in self.blocks
            ]
            held_W = []
            asked_W = []
            for rank, window in enumerate(windows):
                mine = [piece for piece in pieces if piece.rank == self.rank]
                held_W.append(
                    [
                        _view(own[piece.first_row, piece.first_column], *_both(piece, window))
                        for piece in mine
                    ]
                )
                theirs = [piece for piece in pieces if piece.rank == rank]
                views = [_view(block, *_both(piece, windows[self.rank])) for piece in theirs]
                asked_W.append(
                    [
                        view[:, piece.first_column : piece.first_column + piece.columns]
                        for piece, view in zip(theirs, views, strict=True)
                    ]
                )
            yield held_W, asked_W

    def _swap(self, send_W: list[list[Tensor]], receive_W: list[list[Tensor]]) -> None:
        """Sends each rank its views, and fills views with what the ranks send."""
        sizes = [
            [sum(view.numel() for view in views) for views in of_ranks]
            for of_ranks in (send_W, receive_W)
        ]
        flat = [view.detach().reshape(-1) for views in send_W for view in views]
        sent = torch.cat([torch.empty(0, device=self.device), *flat])
        received = sent
        if len(self.blocks) > 1:
            received = sent.new_empty(sum(sizes[1]))
            dist.all_to_all_single(received, sent, sizes[1], sizes[0], group=self.group)
        views = [view for views in receive_W for view in views]
        with torch.no_grad():
            for view, values in zip(
                views, received.split([view.numel() for view in views]), strict=True
            ):
                view.copy_(values.view(view.shape))


def own_rows(
    model: nn.Module, plan: ModelPlan, device: torch.device, group: dist.ProcessGroup
) -> dict[str, OwnRows]:
    """This rank's part of every table of a sharded model, by the table's name. Every rank must call it."""
    rank = dist.get_rank(group)
    found = {}
    sharded = [
        module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection)
    ]

    def flush() -> None:
        for module in sharded:
            for lookup in module._lookups:
                lookup.flush()

    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, DTensor):  # tables alone are sharded
            continue
        of_table = plan[name.removesuffix(".weight").rpartition("embeddings.")[2]]
        local: Any = tensor.to_local()
        views = zip(
            local.local_shards(), local.local_offsets(), strict=False
        )  # without a shard, an offset of nothing
        shards = [Shard(view, int(offset[0]), int(offset[1])) for view, offset in views]
        blocks = even_blocks(of_table.table.rows, plan.ranks)
        live = None
        if of_table.row_wise:
            held = {piece.rank: piece for piece in of_table.pieces}
            blocks = [
                (piece.first_row, piece.first_row + piece.rows) for _, piece in sorted(held.items())
            ]
            nothing = Shard(torch.empty(0, of_table.table.columns, device=device), blocks[rank][0])
            live = shards[0] if shards else nothing
        found[of_table.table.name] = OwnRows(
            of_table, shards, rank, blocks, live, device, group, flush
        )
    return found


def _both(piece: Piece, window: tuple[int, int]) -> tuple[int, int]:
    """[first, last) of the rows that are in both; empty where none is."""
    first = max(piece.first_row, window[0])
    return first, max(first, min(piece.first_row + piece.rows, window[1]))


def _view(shard: Shard, first: int, last: int) -> Tensor:
    return shard.rows[first - shard.first : last - shard.first] if last > first else shard.rows[:0]
