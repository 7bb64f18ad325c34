"""The loss of the repeat head, and the targets that are left for the other heads.

Shapes: N tokens, T offsets, X items of extended sequences, d width.
"""

from torch import Tensor

from torchrec_priors.data.batch import Contexts
from torchrec_priors.encoder.encoder import Jagged
from torchrec_priors.heads.repeat_head import RepeatHead, find_repeats


def repeat_loss(
    head: RepeatHead,
    item_X: Tensor,
    part: Contexts,
    histories: Jagged,
    states: Jagged,
    weight_T: Tensor,
) -> tuple[Tensor, Tensor]:
    """Finds the new targets of a part, and computes its share of the repeat head's loss.

    A target is new if its item is not in the context up to the token.

    Args:
        head: the repeat head.
        item_X: row ids of the items of the extended sequences.
        part: the contexts of the part.
        histories: the same contexts, as the encoder reads them.
        states: their states.
        weight_T: the weight of a target at each offset, as in L_gate (`loss.py`).

    Returns:
        bool [N, T], whether a target exists and is new; and the share of the loss.
    """
    targets = find_repeats(item_X, part.context_N, part.end_N, part.offsets_B1, len(weight_T))
    loss_M = head.loss(states.vector_Nd, histories.vector_Nd, part.offsets_B1, targets, part.time_N)
    return targets.new_NT, (weight_T[targets.offset_M - 1] * loss_M).sum()
