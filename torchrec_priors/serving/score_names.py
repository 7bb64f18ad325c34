"""Says in words what the scores of an answer are."""

from torchrec_priors.serving.request import Source
from torchrec_priors.settings.evaluation import RetrievalConfig
from torchrec_priors.settings.model import ScoreKind


def score_name(
    config: RetrievalConfig,
    *,
    heads: int,
    score: ScoreKind,
    calibrated: bool,
    joint: bool,
    source: Source = "model",
) -> str:
    """Returns what the score is by which items are ordered, such as "mean of the heads' logits".

    Boosts of a request add their logarithms to it.

    Args:
        config: the settings of the search.
        heads: the number of heads.
        score: how a query and an item are compared.
        calibrated: whether scores of heads are log-probabilities.
        joint: whether all heads have one softmax, so that the logits of groups are in the scores.
        source: what answers: the model, or popularity, whose scores are log-probabilities.
    """
    if source == "popularity":
        of_a_head = "log-probability of popularity"
    elif calibrated and config.normaliser_rows:
        of_a_head = "estimated log-probability"
    elif calibrated:
        of_a_head = "log-probability"
    elif score == "cosine" and not joint:
        of_a_head = "scaled cosine"
    else:
        of_a_head = "logit"

    if heads == 1:
        return of_a_head
    if config.fusion == "max":
        return f"{of_a_head} by the best head"

    # Means of log-probabilities are means of the probabilities.
    is_probability = calibrated or source == "popularity"
    if is_probability and config.fusion == "mean":
        return f"{of_a_head} by all heads together"
    of = "log of the " if is_probability else ""
    what = of_a_head.replace("log-probability", "probability")
    if config.fusion == "hierarchical":
        return f"{of}mean {what} by the best head of each segment or level"
    if config.fusion == "inverse_variance":
        return f"{of}weighted mean {what} by all heads"
    return f"mean {what} by all heads"
