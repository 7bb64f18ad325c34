"""Settings of a model that change how it is trained and read, but none of its sizes."""

from dataclasses import dataclass, field

import torch

from torchrec_priors.ops.products import FP32
from torchrec_priors.ranks.exchange import Exchange


@dataclass(frozen=True)
class Behaviour:
    """Settings of training and of table lookups, other than sizes.

    Attributes:
        exchange: the functions by which ranks exchange negatives and sums; the default is for a
            single process.
        precision: dtype of the encoder's matrix products in training.
        products: how the heads and their losses multiply in training; see `ops/products.py`.
        asks_once: whether an id that occurs several times is looked up only once.
        sees_events: whether the encoder reads events. The prior tree may read them even if the
            encoder does not.
        hides_seen: whether items that the user has already seen are left out of the negatives.
        near_duplicates: negatives with a larger cosine with a positive are left out; 1 for none.
    """

    exchange: Exchange = field(default_factory=Exchange)
    precision: torch.dtype = torch.float32
    products: str = FP32
    asks_once: bool = False
    sees_events: bool = False
    hides_seen: bool = False
    near_duplicates: float = 1.0
