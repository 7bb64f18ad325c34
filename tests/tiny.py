"""A tiny configuration, runs of it and what they hold; a test gives only the values that it is about.

    config = tiny.config(model={"context": 20}, priors={"tree": ["genre"]})
    tiny.train(config, data, run)

Runs of `small_data` that tests only read come from the fixture `trained`, which trains each
configuration once.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrec_priors.config import parse
from torchrec_priors.metrics.evaluation import evaluate
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks, join
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training import loop
from torchrec_priors.training.build import build_model
from torchrec_priors.training.built import Built
from torchrec_priors.training.checkpoint.checkpoint import Checkpoints
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.same_run import check_same_run

SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"dim": 8, "context": 12, "horizon": 4},
    "encoder": {"layers": 1, "heads": 2},
    "negatives": {"per_set": 20},
    "training": {"batch": 16, "steps": 4, "evaluate_every": 2, "log_every": 1},
    "evaluation": {"batch": 16},
}


def settings(**sections: dict[str, Any]) -> dict[str, Any]:
    """Returns `SETTINGS` with other values; keys that a section does not give keep theirs."""
    return merged(SETTINGS, **sections)


def merged(values: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    """Returns settings with other values, as `settings` does for ours."""
    result = copy.deepcopy(values)
    for name, changes in sections.items():
        result[name] = {**result.get(name, {}), **copy.deepcopy(changes)}
    return result


def config(**sections: dict[str, Any]) -> RunConfig:
    """Returns the configuration of `settings`."""
    return parse(settings(**sections))


def train(
    config: RunConfig,
    data: PreparedData | Path,
    run: Path,
    *,
    init_from: Path | None = None,
) -> dict[str, Any]:
    """Trains or resumes a run as the app does, in this process; returns its summary."""
    folder = RunFolder(run)
    prepared = data if isinstance(data, PreparedData) else PreparedData(data)
    check_same_run(folder, config, prepared)
    source = None if init_from is None else RunFolder(init_from)
    with join() as ranks:
        return loop.train(config, prepared, folder, ranks, source)


def best(
    run: Path, ranks: Ranks, data: Path | None = None
) -> tuple[RunConfig, PreparedData, Built]:
    """Returns a run's configuration, its data set and its model with the best checkpoint.

    Args:
        run: the run's folder.
        ranks: the ranks that hold the model.
        data: where the data set is, if it has moved or grown.
    """
    folder = RunFolder(run)
    config, prepared = folder.open(data)
    trained = folder.trained_on(config, prepared)
    built = build_model(config, prepared, ranks, trained=trained, for_training=False)
    Checkpoints(folder.checkpoints, ranks).load_best(built)
    return config, prepared, built


def metrics_of(
    built: Built,
    config: RunConfig,
    data: PreparedData,
    ranks: Ranks,
    split: str = "test",
    **more: Any,
) -> dict[str, Any]:
    """Returns the metrics of a model over all ranks."""
    return evaluate(
        built.model,
        built.fetch_index(),
        data,
        split,
        config.evaluation,
        share=ranks.share,
        device=ranks.device,
        columns=built.columns,
        total=ranks.total,
        **more,
    )


def whole_table(built: Built, ranks: Ranks) -> Tensor:
    """Returns all rows of the item table, [R, d], on every rank."""
    rows = torch.zeros(built.own.plan.table.rows, built.own.plan.table.columns)
    rows[built.own.first : built.own.last] = built.own.fetch().rows
    return ranks.total(rows)


def dense_parameters(built: Built) -> dict[str, Tensor]:
    """Returns copies of the parameters that no table holds, by name."""
    return {
        name: parameter.detach().clone()
        for name, parameter in built.model.named_parameters()
        if "table" not in name
    }
