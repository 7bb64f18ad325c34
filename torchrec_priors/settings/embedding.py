"""The section `[embedding]`: how items that occur rarely or never in training are treated."""

from dataclasses import dataclass
from typing import Literal

from torchrec_priors.errors import UserError
from torchrec_priors.settings.ranges import Count, CountOrZero, Probability, Section, check_ranges

Unseen = Literal["own", "dropped", "shared", "hashed", "managed", "content"]
Eviction = Literal["lfu", "lru", "distance_lfu"]

_MOST_BLOCKS = 1024  # TorchRec's limit


@dataclass
class UnseenConfig(Section):
    """The rows of the item table.

    Attributes:
        unseen: how unseen items are treated, i.e. items with fewer than `min_frequency` training
            interactions. `own`: every item of the catalogue has a row, even if it is never trained;
            items that are added later have no rows and are dropped. `dropped`: unseen items are
            left out of histories and never recommended. `shared`: they share one row and are not
            recommended. `hashed`: they share `hashed_rows` rows, by a hash of their row id, and are
            recommended with the vector of their row. `managed`: the table has `rows` rows, and
            TorchRec's managed collisions admit new items and evict old ones during training; the
            items without a row share one row in each block and are not recommended. `content`: they
            have no row, and are used and recommended by their content; unseen items without content
            are dropped.
        min_frequency: number of training interactions that an item needs to get its own row; at
            least 2 for `shared` and `hashed`.
        hashed_rows: number of rows that unseen items share with `hashed`.
        rows: number of rows with `managed`, of which `blocks` are shared. It must be a multiple of
            `blocks`, and at least twice as large.
        blocks: number of blocks into which `managed` divides ids and rows; at least the number of
            ranks, and at most 1024. The result depends on this number, but not on the number of
            ranks.
        eviction: TorchRec's policy that selects the items to evict from a full block. `lfu` evicts
            items that occurred least often, `lru` items that have not occurred for the longest
            time, and `distance_lfu` considers both.
        eviction_interval: number of steps between admissions, which also evict items.
        content: name of the content (`torchrec-priors content`) whose projection is added to the
            rows of items; empty for none. With `items.encoder`, the item LLM makes the content.
        ids: whether items have rows. If not, content alone makes their vectors, and `unseen` must
            be `content`.
        id_dropout: probability that the row of an item with content is left out in a step of
            training, in histories, targets and negatives, so that content alone learns to describe
            items.
        map_content: whether items without rows get their scores from a regression instead of the
            projection: from content to what the items with rows have learned. It needs `unseen =
            "content"`.
    """

    unseen: Unseen = "own"
    min_frequency: Count = 1
    hashed_rows: CountOrZero = 0
    rows: CountOrZero = 0
    blocks: Count = 24
    eviction: Eviction = "distance_lfu"
    eviction_interval: Count = 10
    content: str = ""
    ids: bool = True
    id_dropout: Probability = 0.0
    map_content: bool = False

    def check(self, *, has_item_llm: bool = False) -> None:
        """Raises UserError if a value is out of its range, or if two contradict each other.

        Args:
            has_item_llm: whether a language model makes the content (`items.encoder`).
        """
        check_ranges(self, "embedding")

        # Some policies need other settings.
        policy = f"embedding.unseen = '{self.unseen}'"
        if has_item_llm and self.content:
            raise UserError(
                'embedding.content cannot be combined with items.encoder = "llm", which makes the '
                'content: give embedding.content=""'
            )
        self._check_content(policy, has_item_llm)
        if self.min_frequency == 1 and self.unseen in ("shared", "hashed"):
            raise UserError(
                f"{policy} needs embedding.min_frequency >= 2: no interaction would train the rows "
                "that are shared"
            )
        if self.unseen == "hashed" and not self.hashed_rows:
            raise UserError(f"{policy} needs embedding.hashed_rows, such as 1000")
        if self.unseen == "managed":
            self._check_managed(policy)

    def without_effect(self) -> list[str]:
        """Returns the keys that were given although the policy does not read them."""
        read = {
            "own": (),
            "dropped": ("min_frequency",),
            "shared": ("min_frequency",),
            "hashed": ("min_frequency", "hashed_rows"),
            "managed": ("rows", "blocks", "eviction", "eviction_interval"),
            "content": ("min_frequency", "map_content") if self.ids else (),
        }[self.unseen]
        read = (*read, "content", "ids", "id_dropout")
        # A value that is the default cannot be distinguished from one that was not given.
        given = {name for name, value in vars(self).items() if value != getattr(UnseenConfig, name)}

        return [f"embedding.{name}" for name in vars(self) if name in given - {"unseen", *read}]

    def _check_content(self, policy: str, has_item_llm: bool) -> None:
        """Raises UserError if settings of content contradict others."""
        if not self.content and not has_item_llm:
            if self.unseen == "content" or not self.ids or self.id_dropout or self.map_content:
                raise UserError(
                    "embedding.content names no content, which unseen = 'content', ids = false, "
                    "id_dropout and map_content need: add it with `torchrec-priors content`, or "
                    "set items.encoder"
                )
            return
        if self.unseen not in ("own", "dropped", "content"):
            raise UserError(
                f"{policy} cannot be combined with content of items, as several items share a row "
                "or change it: use own, dropped or content"
            )
        if not self.ids and self.unseen != "content":
            raise UserError(
                f"{policy} needs rows: with embedding.ids = false, set embedding.unseen = 'content'"
            )
        if not self.ids and self.id_dropout:
            raise UserError("embedding.id_dropout has no effect with embedding.ids = false")
        if self.map_content and (self.unseen != "content" or not self.ids):
            raise UserError(
                "embedding.map_content maps content of items without rows to what items with rows "
                "learned: it needs embedding.unseen = 'content' and embedding.ids = true"
            )

    def _check_managed(self, policy: str) -> None:
        """Raises UserError if `rows` and `blocks` are not valid; `policy` begins the message."""
        if self.blocks > _MOST_BLOCKS:
            raise UserError(f"embedding.blocks = {self.blocks} must be at most {_MOST_BLOCKS}")
        # Each block has one shared row, and at least one row for an item.
        if self.rows < 2 * self.blocks or self.rows % self.blocks:
            least = max(2, -(-self.rows // self.blocks)) * self.blocks
            raise UserError(
                f"{policy}: embedding.rows = {self.rows} must be a multiple of embedding.blocks = "
                f"{self.blocks}, and at least twice as many, as {least}"
            )
