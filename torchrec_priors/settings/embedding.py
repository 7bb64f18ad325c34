"""What becomes of items that training has seen too seldom, or never: the policies, and their settings."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError

Unseen = Literal["own", "dropped", "shared", "hashed", "managed"]
Eviction = Literal["lfu", "lru", "distance_lfu"]

_MOST_BLOCKS = 1024  # TorchRec's limit


@dataclass
class UnseenConfig:
    """Which rows the item table has.

    Attributes:
        unseen: what becomes of items of fewer than `min_frequency` training interactions.
            `own`: every item of the catalogue has a row, trained or not; items that come later have none and are
            dropped. `dropped`: they are left out of histories and never recommended. `shared`: they have one row
            together, and are not recommended. `hashed`: they share `hashed_rows` rows by a hash of their row id, and
            are recommended by the row's vector. `managed`: `rows` rows for whoever is met in training, by TorchRec's
            managed collisions: new items are admitted and old ones evicted as it goes on; those without a row share one
            a block, and are not recommended.
        min_frequency: training interactions from which on an item has a row of its own.
        hashed_rows: rows of `hashed`.
        rows: rows of `managed`, `blocks` of them shared.
        blocks: parts that `managed` cuts ids and rows into, as many as ranks or more: what is learned depends on them,
            not on the ranks.
        eviction: who gives way in a full block, TorchRec's policies: `lfu` (whom training met least often), `lru` (whom
            it has not met for longest) or `distance_lfu` (both).
        eviction_interval: steps between admissions and evictions.
    """

    unseen: Unseen = "own"
    min_frequency: int = 1
    hashed_rows: int = 0
    rows: int = 0
    blocks: int = 24
    eviction: Eviction = "distance_lfu"
    eviction_interval: int = 10

    def check(self) -> None:
        policy = f"embedding.unseen = '{self.unseen}'"
        for name in ("min_frequency", "blocks", "eviction_interval"):
            if getattr(self, name) < 1:
                raise UserError(f"embedding.{name} = {getattr(self, name)} must be at least 1")
        if self.hashed_rows < 0:
            raise UserError(f"embedding.hashed_rows = {self.hashed_rows} must not be negative")
        if self.min_frequency == 1 and self.unseen in ("shared", "hashed"):
            raise UserError(
                f"{policy} needs embedding.min_frequency >= 2: no interaction would train the rows that are shared"
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
        given = {name for name, value in vars(self).items() if value != getattr(UnseenConfig, name)}
        return [f"embedding.{name}" for name in vars(self) if name in given - {"unseen", *read}]

    def _check_managed(self, policy: str) -> None:
        if self.blocks > _MOST_BLOCKS:
            raise UserError(f"embedding.blocks = {self.blocks} must be at most {_MOST_BLOCKS}")
        if self.rows < 2 * self.blocks or self.rows % self.blocks:
            least = max(2, -(-self.rows // self.blocks)) * self.blocks
            raise UserError(
                f"{policy}: embedding.rows = {self.rows} must be a multiple of embedding.blocks = {self.blocks}, and "
                f"at least twice as many, as {least}"
            )
