"""Reads the tokens of items' texts from `content/NAME.parquet`.

The file has a row for each item with a text: `item` (row id, ascending) and `tokens` (list of
int32), which a tokenizer has made of the item's text (`torchrec-priors content tokenize`).

Shapes: M items with a text, V tokens of all of them.
"""

from dataclasses import dataclass

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.prepared.content import ITEM, items_of
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import ContentInfo

TOKENS = "tokens"


@dataclass(frozen=True)
class ItemTokens:
    """The tokens of items' texts, one text after another.

    Attributes:
        info: the manifest's description of the tokens.
        item_M: int64 row ids of the items with a text, ascending.
        token_V: int32, the tokens.
        first_M1: int64, the first token of each text; the last entry is V.
    """

    info: ContentInfo
    item_M: np.ndarray
    token_V: np.ndarray
    first_M1: np.ndarray

    @property
    def longest(self) -> int:
        """The number of tokens of the longest text."""
        return int(np.diff(self.first_M1).max(initial=0))


def read_tokens(data: PreparedData, name: str) -> ItemTokens:
    """Reads the tokens with this name.

    Raises:
        UserError: the data set has no such tokens, or the file is damaged.
    """
    info = data.manifest.content_of(name)
    if not info.has_tokens:
        raise UserError(
            f"items.content: '{name}' holds vectors, which embedding.content reads: name tokens, "
            "which `torchrec-priors content tokenize` adds"
        )
    table = data.content_table(name, [ITEM, TOKENS])
    item_M = items_of(table, info, data)
    lists = table[TOKENS].combine_chunks()
    length_M = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    token_V = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
    if len(length_M) and (length_M.min() < 1 or token_V.min() < 0):
        raise UserError(
            f"{data.folder / info.path} has a text without tokens: add the content again"
        )
    return ItemTokens(info, item_M, token_V, np.concatenate([[0], np.cumsum(length_M)]))
