"""The summary of a finished run: how it ended, its best evaluation, its size and its time."""

from typing import Any

from torch import nn

from torchrec_priors.model.recommender import Recommender
from torchrec_priors.settings.run_config import RunConfig

SELECTED_BY = "ndcg@10"


def parameters_of(model: Recommender, config: RunConfig) -> dict[str, int]:
    """Counts the parameters of the table, of the heads, and of everything else."""
    modules: list[nn.Module] = [model.heads]
    if model.baseline is not None:
        modules.append(model.baseline)
    heads = sum(parameter.numel() for module in modules for parameter in module.parameters())
    dense = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith("table.")
    )
    return {
        "table": model.item_rows.rows * config.model.dim,
        "heads": heads,
        "encoder and score": dense - heads,
    }


def outcome(summary: dict[str, Any]) -> str:
    """Returns a summary in words, such as "200 steps (end of schedule), best validation ..."."""
    best = summary[f"validation/{SELECTED_BY}"]
    if best is None:
        found = "fitted on all interactions, nothing left to validate on"
    elif "plain" in summary:
        found = f"validation {SELECTED_BY} {best:.4f}"
    else:
        found = f"best validation {SELECTED_BY} {best:.4f} at step {summary['best_step']}"

    if "plain" in summary:
        return f"{summary['plain']} in {summary['seconds_to_fit']:.1f} s, {found}"
    return f"{summary['steps']} steps ({summary['stopped']}), {found}"
