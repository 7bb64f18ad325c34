"""The section `[embedding]`: what happens to items that training saw rarely or never."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Count, CountOrZero, Section, check_ranges

Unseen = Literal["own", "dropped", "shared", "hashed", "managed"]
Eviction = Literal["lfu", "lru", "distance_lfu"]

_MOST_BLOCKS = 1024  # TorchRec's limit


@dataclass
class UnseenConfig(Section):
    """Which rows the item table has.

    Attributes:
        unseen: what happens to items of fewer than `min_frequency` training interactions.
            `own`: every item of the catalogue has a row, trained or not; items that come later have
            none and are dropped. `dropped`: they are left out of histories and never recommended.
            `shared`: they share one row, and are not recommended. `hashed`: they share
            `hashed_rows` rows by a hash of their row id, and are recommended by the row's vector.
            `managed`: `rows` rows for the items that training sees, by TorchRec's managed
            collisions: during training, new items are admitted and old ones evicted; those without
            a row share one a block, and are not recommended.
        min_frequency: training interactions from which on an item has its own row; at least 2 for
            `shared` and `hashed`.
        hashed_rows: rows of `hashed`.
        rows: rows of `managed`, `blocks` of them shared; a multiple of `blocks`, and at least twice
            as many.
        blocks: parts that `managed` cuts ids and rows into, at least the number of ranks and at
            most 1024: what is learned depends on them, not on the ranks.
        eviction: which items a full block evicts, TorchRec's policies: `lfu` (those that training
            saw least often), `lru` (those that it has not seen for longest) or `distance_lfu`
            (both).
        eviction_interval: steps between admissions and evictions.
    """

    unseen: Unseen = "own"
    min_frequency: Count = 1
    hashed_rows: CountOrZero = 0
    rows: CountOrZero = 0
    blocks: Count = 24
    eviction: Eviction = "distance_lfu"
    eviction_interval: Count = 10

    def check(self) -> None:
        """Raises UserError if a value is out of its range or two do not fit."""
        check_ranges(self, "embedding")

        # Each policy has settings without which it means nothing.
        policy = f"embedding.unseen = '{self.unseen}'"
        if self.min_frequency == 1 and self.unseen in ("shared", "hashed"):
            raise UserError(
                f"{policy} needs embedding.min_frequency >= 2: no interaction would train the rows "
                "that are shared"
            )
        if self.unseen == "hashed" and not self.hashed_rows:
            raise UserError(f"{policy} needs embedding.hashed_rows, as 1000")
        if self.unseen == "managed":
            self._check_managed(policy)

    def without_effect(self) -> list[str]:
        """Keys that were given although the policy does not read them."""
        read = {
            "own": (),
            "dropped": ("min_frequency",),
            "shared": ("min_frequency",),
            "hashed": ("min_frequency", "hashed_rows"),
            "managed": ("rows", "blocks", "eviction", "eviction_interval"),
        }[self.unseen]
        # A value that is the default cannot be distinguished from one that was not given.
        given = {name for name, value in vars(self).items() if value != getattr(UnseenConfig, name)}

        return [f"embedding.{name}" for name in vars(self) if name in given - {"unseen", *read}]

    def _check_managed(self, policy: str) -> None:
        if self.blocks > _MOST_BLOCKS:
            raise UserError(f"embedding.blocks = {self.blocks} must be at most {_MOST_BLOCKS}")
        # Each block has a shared row, and at least one that an item can have.
        if self.rows < 2 * self.blocks or self.rows % self.blocks:
            least = max(2, -(-self.rows // self.blocks)) * self.blocks
            raise UserError(
                f"{policy}: embedding.rows = {self.rows} must be a multiple of embedding.blocks = "
                f"{self.blocks}, and at least twice as many, as {least}"
            )
