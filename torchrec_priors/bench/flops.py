"""Counts the minimum number of FLOPs that every implementation needs.

    training   6 W N                                          dense layers
               + 3 * 4 d sum of L (L + 1) / 2 per layer       attention
               + 6 d sum over sets of (queries x negatives)   logits
               + 6 d^2 R                                      adapters
    retrieval  2 d x users x sum over heads of group sizes

W is the number of dense parameters that every token passes, N the number of tokens, L the length of
a sequence, d the width, and R the number of (token, adapter) pairs.

Suffixes of names: P (token, path) pairs with a positive, S item sets.
"""

import numpy as np
import torch

from torchrec_priors.data.batch import Batch
from torchrec_priors.encoder.hstu import HSTU
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.model.recommender import Recommender


@torch.no_grad()
def training_flops(model: Recommender, batch: Batch) -> float:
    """Returns the FLOPs of one training step on a batch."""
    (part,) = batch.parts
    dim = model.config.dim
    tokens = len(part.context_N)
    assert isinstance(model.encoder, HSTU)
    layers = list(model.encoder.layers)
    linear = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)]
    passed = sum(module.weight.numel() for module in linear)
    dense = 6.0 * passed * tokens

    lengths = part.offsets_B1.diff().double()
    pairs = float((lengths * (lengths + 1) / 2).sum())
    attention = 12.0 * dim * pairs * len(layers)

    looked_up = model.look_up(batch)
    positives = model.positives(looked_up, part)
    set_P = model.item_set_K[positives.path_P]
    queries_S = torch.bincount(set_P, minlength=model.tree.item_sets).numpy()
    in_sets = float((queries_S * np.array(batch.draw.counts_S)).sum())
    products = in_sets + len(positives.path_P) * batch.draw.shared
    rows = _adapter_rows(model.heads, positives.token_P, positives.path_P)
    return dense + attention + 6.0 * dim * products + 6.0 * dim**2 * rows


def _adapter_rows(heads: PriorHeads, token_P: torch.Tensor, path_P: torch.Tensor) -> int:
    """Counts the different (token, node) pairs over all depths."""
    rows = 0
    for depth in range(1, heads.depth + 1):
        node_P = getattr(heads, f"node_{depth}")[path_P]
        # A path that ends above this depth has node -1.
        has_node_P = node_P >= 0
        keys = node_P[has_node_P] * (int(token_P.max()) + 1) + token_P[has_node_P]
        rows += len(torch.unique(keys))
    return rows
