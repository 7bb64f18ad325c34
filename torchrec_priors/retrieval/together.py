"""Encodes the histories of a batch together, if a state then has the same bits as alone.

Most of the time of a short history goes into calling operations, so a batch takes far less time in
one pass. But the last bits of a product of matrices can depend on how many rows it has: libraries
have other code for few rows. The last bits of an element-wise function can depend on the number of
elements that are left after the vector instructions. So rows are added until their number is a
multiple of `_ROWS`: with MKL, a row then has the same bits in every pass.

Other libraries, other processors and other encoders may differ. So the first batches are encoded in
both ways. If a bit differs, histories are encoded one after another from then on.

Shapes: N tokens, B histories, d width.
"""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.encoder.hstu import HSTU
from torchrec_priors.model.recommender import Recommender

log = logging.getLogger(__name__)

_ROWS = 32
_MOST_ROWS = 1 << 11  # in a pass, so that its numbers stay in the cache
CHECKS = 4  # batches that are encoded in both ways


class Together:
    """Encodes histories on a CPU, with one thread. Any thread may call it."""

    def __init__(self, model: Recommender) -> None:
        """
        Args:
            model: the model. Only the tokens of HSTU are known not to depend on other histories.
        """
        self._model = model
        self._checks = CHECKS
        self.is_used = isinstance(model.encoder, HSTU)

    def states(self, histories: Jagged) -> Tensor:
        """Returns the states of all positions, [N, d], as if each history were alone.

        Args:
            histories: histories that are not empty.
        """
        lengths = histories.offsets_B1.diff().tolist()
        if len(lengths) == 1 or not self.is_used:
            return self._encoded(histories, [[length] for length in lengths])

        passes = list(_passes(lengths))
        together_Nd = self._encoded(histories, passes)
        if self._checks <= 0:
            return together_Nd
        alone_Nd = self._encoded(histories, [[length] for length in lengths])
        if torch.equal(alone_Nd, together_Nd):
            self._checks -= 1
        elif self.is_used:
            self.is_used = False
            log.info(
                "histories are encoded one after another, as the last bits of a state would depend "
                "on the batch on this machine"
            )
        return alone_Nd

    def _encoded(self, histories: Jagged, passes: list[list[int]]) -> Tensor:
        """Returns the states of histories, given the lengths of those of each pass."""
        states = []
        first = 0
        for lengths in passes:
            last = first + sum(lengths)
            part = padded(_part(histories, first, last, lengths))
            states.append(self._model.states(part)[: last - first])
            first = last
        return states[0] if len(states) == 1 else torch.cat(states)


def padded(histories: Jagged) -> Jagged:
    """Adds histories of one token until the number of tokens is a multiple of `_ROWS`."""
    tokens = len(histories.vector_Nd)
    missing = -tokens % _ROWS
    if not missing:
        return histories

    def more(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return torch.cat([values, values[:1].expand(missing, *values.shape[1:])])

    vector_Nd = more(histories.vector_Nd)
    assert vector_Nd is not None
    ends = torch.arange(tokens + 1, tokens + missing + 1)
    return replace(
        histories,
        vector_Nd=vector_Nd,
        offsets_B1=torch.cat([histories.offsets_B1, ends]),
        time_N=more(histories.time_N),
        event_N=more(histories.event_N),
    )


def _part(histories: Jagged, first: int, last: int, lengths: list[int]) -> Jagged:
    """Returns the histories with the tokens from `first` to `last`."""
    part = slice(first, last)
    return Jagged(
        histories.vector_Nd[part],
        torch.tensor([0, *itertools.accumulate(lengths)]),
        None if histories.time_N is None else histories.time_N[part],
        None if histories.event_N is None else histories.event_N[part],
    )


def _passes(lengths: list[int]) -> Iterator[list[int]]:
    """Divides histories into passes, by their lengths.

    >>> list(_passes([1000, 1000, 100, 3000, 1]))
    [[1000, 1000], [100], [3000], [1]]
    """
    taken: list[int] = []
    for length in lengths:
        if taken and sum(taken) + length > _MOST_ROWS:
            yield taken
            taken = []
        taken.append(length)
    if taken:
        yield taken
