"""Each rank is responsible for a block of a table's rows, even if other ranks hold these rows.

Negatives, retrieval and `--init-from` give each rank the block of rows that it would have as a
row-wise shard. If the table is cut row-wise, the rank holds its block, and reads and writes it in
place. Otherwise the block is spread over several ranks: `fetch` collects a copy of it, and `store`
writes the copy back. Both use all-to-all, for a limited number of rows at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.shards_wrapper import LocalShardsWrapper

from torchrec_priors.embedding.item_table import Shard
from torchrec_priors.embedding.plan import ModelPlan, Piece, TablePlan, even_blocks

_ROWS_AT_A_TIME = 1 << 16  # in each block


@dataclass(frozen=True)
class OwnRows:
    """This rank's shards of one table, and its block of rows.

    Attributes:
        plan: which rank holds which pieces of the table.
        shards: live views of this rank's shards.
        rank: index of this rank.
        blocks: rows [first, last) of each rank's block.
        live: this rank's shard if it is also the block, because the table is cut row-wise;
            otherwise None.
        device: device of the table.
        group: process group of all ranks, for `fetch` and `store`.
        flush: function that writes the rows in a GPU's cache back to the table.
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
        """The first row of this rank's block."""
        return self.blocks[self.rank][0]

    @property
    def last(self) -> int:
        """One past the last row of this rank's block."""
        return self.blocks[self.rank][1]

    def __len__(self) -> int:
        return self.last - self.first

    def fetch(self) -> Shard:
        """Returns the present values of the block. Every rank must call it.

        They are a live view, or a copy that later steps do not change.
        """
        # A GPU's cache may hold newer values than the table.
        self.flush()
        if self.live is not None:
            return self.live

        rows = torch.empty(len(self), self.plan.table.columns, device=self.device)
        block = Shard(rows, self.first)
        for held_W, wanted_W in self._moves(block):
            self._swap(held_W, wanted_W)
        return block

    def store(self, block: Shard) -> None:
        """Writes a block that was fetched, and maybe changed, back to the table.

        Every rank must call it.
        """
        if self.live is not None:
            assert block is self.live, "a live view is changed in place"
            return

        for held_W, wanted_W in self._moves(block):
            self._swap(wanted_W, held_W)

    def _moves(self, block: Shard) -> Iterator[tuple[list[list[Tensor]], list[list[Tensor]]]]:
        """Yields the views between which values move, for some rows of each block at a time.

        Args:
            block: this rank's block.

        Yields:
            Two lists with an entry for each rank r. The first has views of the values in this
            rank's shards that belong to the block of r. The second has views of the places in this
            rank's block for the values that are in the shards of r.
        """
        # Ranks with shorter blocks take part with empty views until the longest block is done.
        pieces = self.plan.pieces
        own_shards = {(shard.first, shard.first_column): shard for shard in self.shards}
        longest = max(last - first for first, last in self.blocks)

        for start in range(0, longest, _ROWS_AT_A_TIME):
            windows = [
                (first + start, min(first + start + _ROWS_AT_A_TIME, last))
                for first, last in self.blocks
            ]

            held_W = []
            wanted_W = []
            for rank, window in enumerate(windows):
                held = []
                for piece in pieces:
                    if piece.rank == self.rank:
                        shard = own_shards[piece.first_row, piece.first_column]
                        held.append(_view(shard, *_overlap(piece, window)))
                held_W.append(held)

                wanted = []
                for piece in pieces:
                    if piece.rank == rank:
                        view = _view(block, *_overlap(piece, windows[self.rank]))
                        columns = slice(piece.first_column, piece.first_column + piece.columns)
                        wanted.append(view[:, columns])
                wanted_W.append(wanted)

            yield held_W, wanted_W

    def _swap(self, send_W: list[list[Tensor]], receive_W: list[list[Tensor]]) -> None:
        """Sends values to all ranks, and writes the values that arrive.

        Args:
            send_W: views of the values to send to each rank.
            receive_W: views of the places for the values from each rank.
        """
        sizes_sent = [sum(view.numel() for view in views) for views in send_W]
        sizes_received = [sum(view.numel() for view in views) for views in receive_W]

        # The empty tensor is for a rank that sends nothing: `cat` rejects an empty list.
        flat = [view.detach().reshape(-1) for views in send_W for view in views]
        sent = torch.cat([torch.empty(0, device=self.device), *flat])
        received = sent
        if len(self.blocks) > 1:
            received = sent.new_empty(sum(sizes_received))
            dist.all_to_all_single(received, sent, sizes_received, sizes_sent, group=self.group)

        # Values arrive rank by rank, and from each rank in the order of the plan's pieces.
        views = [view for views in receive_W for view in views]
        with torch.no_grad():
            for view, values in zip(
                views, received.split([view.numel() for view in views]), strict=True
            ):
                view.copy_(values.view(view.shape))


def own_rows(
    model: nn.Module, plan: ModelPlan, device: torch.device, group: dist.ProcessGroup
) -> dict[str, OwnRows]:
    """Returns this rank's block of every table of a sharded model, by the table's name.

    Every rank must call it.
    """
    rank = dist.get_rank(group)
    sharded = [
        module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection)
    ]

    def flush() -> None:
        for module in sharded:
            for lookup in module._lookups:
                lookup.flush()

    blocks_of_tables = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, DTensor):
            continue
        local: Any = tensor.to_local()
        if not isinstance(local, LocalShardsWrapper):  # a language model's, by FSDP2
            continue

        table_plan = plan[name.removesuffix(".weight").rpartition("embeddings.")[2]]
        # A rank without a shard still has an offset, so the lists may differ in length.
        views = zip(local.local_shards(), local.local_offsets(), strict=False)
        shards = [Shard(view, int(offset[0]), int(offset[1])) for view, offset in views]

        blocks = even_blocks(table_plan.table.rows, plan.ranks)
        # In a row-wise table, the shards are the blocks. In a managed table they may be uneven.
        live = None
        if table_plan.row_wise:
            held = {piece.rank: piece for piece in table_plan.pieces}
            blocks = [
                (piece.first_row, piece.first_row + piece.rows) for _, piece in sorted(held.items())
            ]
            no_rows = torch.empty(0, table_plan.table.columns, device=device)
            live = shards[0] if shards else Shard(no_rows, blocks[rank][0])

        blocks_of_tables[table_plan.table.name] = OwnRows(
            table_plan, shards, rank, blocks, live, device, group, flush
        )
    return blocks_of_tables


def _overlap(piece: Piece, window: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows [first, last) of a piece that are in a window; empty if there are none."""
    first = max(piece.first_row, window[0])
    return first, max(first, min(piece.first_row + piece.rows, window[1]))


def _view(shard: Shard, first: int, last: int) -> Tensor:
    """Returns rows [first, last) of the table from a shard. An empty range may be outside of it."""
    if last <= first:
        return shard.rows[:0]
    return shard.rows[first - shard.first : last - shard.first]
