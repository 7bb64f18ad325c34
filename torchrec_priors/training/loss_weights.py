"""Sets the weights of the loss and the gate's initial values, from the training positives."""

import logging

import torch

from torchrec_priors.loss import decision_weights, discount, path_weights, positive_weights
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.built import Built

log = logging.getLogger(__name__)


def set_loss_weights(built: Built, config: RunConfig) -> None:
    """Sets the weights that the loss gives to positives and to decisions of the gate.

    It also sets the gate's initial values. Both are computed from the counts of training positives.
    """
    counted = built.counted
    model = built.model
    assert counted.by_offset is not None

    positives_KT, targets_T = counted.by_offset
    weight_K = path_weights(config.loss, counted.positives_K)
    # A baseline has no paths: every target counts once, whichever of the queries it trains.
    if model.baseline is not None:
        positives_KT = targets_T[None]
        weight_K = torch.ones(1)

    discount_T = discount(config.loss.gamma, config.model.horizon)
    model.weights.positive_KT.copy_(positive_weights(positives_KT, targets_T, weight_K, discount_T))
    if model.joint is not None:
        # All paths have one softmax, so every target counts once, whichever path it belongs to.
        model.weights.positive_KT.copy_(discount_T.expand_as(model.weights.positive_KT))
    model.weights.decision_T.copy_(decision_weights(positives_KT, weight_K, discount_T))

    if model.gate is not None and model.joint is None:
        model.gate.start_from(built.positives_S / max(counted.targets, 1))
        if not bool(model.gate.gated_S.any()):
            log.warning(
                "loss.gate has no effect: no level of priors.tree restricts items,"
                " so there is nothing to decide"
            )
