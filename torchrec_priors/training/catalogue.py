"""Lets the item LLM read the texts of all items, on all ranks.

    texts --- in pieces of 256
      |
    each rank reads every W-th piece, and may keep its vectors in a folder
      |
    all ranks have the vectors of all items

A piece in the folder is named by a checksum of the model's weights and of its tokens. So an
evaluation that was killed continues, and others of the same checkpoint read no text again.

Shapes: M items with a text, c width of the vectors, W ranks.
"""

import hashlib
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from torchrec_priors.content.pieces import Pieces
from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.ranks.process import Ranks

log = logging.getLogger(__name__)

PIECE = 1 << 8  # texts


class _Kept:
    """Vectors in a folder. If it cannot be written, vectors are in memory only."""

    def __init__(self, llm: ItemLLM, folder: Path, identity: str) -> None:
        """
        Args:
            llm: the item LLM.
            folder: the folder. Vectors of other weights are in others beside it.
            identity: names the weights of the model.
        """
        names = []
        for first in range(0, llm.texts, PIECE):
            tokens = llm.tokens_of(first, min(first + PIECE, llm.texts))
            names.append(hashlib.sha256(identity.encode() + tokens).hexdigest())
        self._pieces = Pieces(folder, names)
        self._can_write = True

    def read(self, number: int) -> Tensor | None:
        """Returns the vectors of a piece; None if they are not there, or damaged."""
        try:
            return torch.from_numpy(self._pieces.read(number))
        except (OSError, pa.ArrowException):
            return None

    def write(self, number: int, vector_Bc: Tensor) -> None:
        """Keeps the vectors of a piece."""
        if not self._can_write:
            return
        try:
            self._pieces.folder.mkdir(parents=True, exist_ok=True)
            self._pieces.write(number, vector_Bc.cpu().numpy())
        except OSError as error:
            self._can_write = False
            log.info(
                "vectors of items are not kept in '%s' (%s)", self._pieces.folder, error.strerror
            )

    def remove_others(self) -> None:
        """Removes the vectors of other weights."""
        folder = self._pieces.folder
        if not folder.is_dir() or folder.parent.is_symlink():
            return
        for other in folder.parent.iterdir():
            if other != folder and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)


@torch.no_grad()
def read_catalogue(
    llm: ItemLLM, ranks: Ranks, folder: Path | None = None, identity: str = ""
) -> Tensor:
    """Returns what the item LLM makes of all texts, float32 [M, c]. Every rank must call it.

    Args:
        llm: the item LLM.
        ranks: the ranks that share the work.
        folder: where vectors of these weights are kept; None to keep them in memory only.
        identity: names the weights of the model.
    """
    kept = None if folder is None else _Kept(llm, folder, identity)
    texts = llm.texts
    vector_Mc = torch.zeros(texts, llm.width, device=ranks.device)
    missing = []
    for number in range(ranks.rank, -(-texts // PIECE), ranks.world):
        vector_Bc = None if kept is None else kept.read(number)
        if vector_Bc is None:
            missing.append(number)
        else:
            first = number * PIECE
            vector_Mc[first : first + len(vector_Bc)] = vector_Bc.to(ranks.device)

    was_training = llm.training
    llm.eval()
    # A model that is divided among ranks is read by all of them together, so all make as many
    # calls. The last calls of some ranks are without texts.
    for turn in range(_most(len(missing), ranks)):
        first = texts
        if turn < len(missing):
            first = missing[turn] * PIECE
        last = min(first + PIECE, texts)
        vector_Mc[first:last] = llm(torch.arange(first, last, device=ranks.device))
        if kept is not None and first < last:
            kept.write(missing[turn], vector_Mc[first:last])
    llm.train(was_training)

    if kept is not None and ranks.leads:
        kept.remove_others()
    return ranks.total(vector_Mc)


def _most(count: int, ranks: Ranks) -> int:
    """Returns the largest count of any rank. Every rank must call it."""
    count_W = F.one_hot(torch.tensor(ranks.rank), ranks.world) * count
    return int(ranks.total(count_W).max())
