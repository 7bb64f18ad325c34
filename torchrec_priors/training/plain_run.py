"""Fits a plain baseline as a run, and opens such a run to evaluate it.

The run's folder has the configuration, the record of the data, the summary and the evaluations, but
no weights: a baseline takes seconds to fit, so whoever opens the run fits it again
(docs/decisions/35-plain-baselines-are-fitted-again.md).
"""

import time
from dataclasses import dataclass
from typing import Any

from torchrec_priors.common.files import write_json, write_whole
from torchrec_priors.data.trained_part import training_ends
from torchrec_priors.embedding.item_rows import ItemRows
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.evaluation import evaluate_lists
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.plain.log import Log
from torchrec_priors.plain.plain import Plain, fit_plain
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_tree
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.plain_lists import PlainLists
from torchrec_priors.settings.priors import PriorsConfig
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.checkpoint.checkpoint import checkpoint_name
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.log_lines import length_and_checksum, to_line
from torchrec_priors.training.run.record import record_run
from torchrec_priors.training.run.recorded_data import earlier_state
from torchrec_priors.training.summary import SELECTED_BY

# A baseline takes no steps, so what is evaluated is its state after 0 steps.
CHECKPOINT = checkpoint_name(0)


@dataclass(frozen=True)
class FittedPlain:
    """A fitted plain baseline, with what an evaluation needs.

    Attributes:
        plain: the baseline.
        lists: finds the items for users.
        path_names: the name of the only head, which is that of a model without priors.
        reach: the metric that counts the targets that can be found.
    """

    plain: Plain
    lists: PlainLists
    path_names: list[str]
    reach: Reach


def fit_run(config: RunConfig, data: PreparedData) -> FittedPlain:
    """Fits the baseline of a configuration to the training part of a data set.

    Raises:
        UserError: the baseline's name or an option is wrong, or the data set does not fit it.
    """
    log = Log.of(data, training_ends(data, config.training))
    plain = fit_plain(config.plain, log)
    horizon = data.manifest.horizon
    tree = load_tree(PriorsConfig(), data, horizon)
    rows = ItemRows(data.items, data.items)
    return FittedPlain(
        plain=plain,
        lists=PlainLists(plain, log.order_I, config.evaluation, data, DEPTH),
        path_names=[path.name for path in tree.paths],
        reach=Reach(tree, rows, horizon, filter_seen=config.evaluation.filter_seen),
    )


def train_plain(
    config: RunConfig, data: PreparedData, folder: RunFolder, ranks: Ranks
) -> dict[str, Any]:
    """Fits a plain baseline, evaluates it on validation and writes the run's files.

    Every rank must call it. All ranks fit the same baseline, and each evaluates its share of the
    users. A run that was killed starts from the beginning.

    Returns:
        the summary, with the keys of a neural run's summary and `plain`, the baseline's name.
    """
    started = time.monotonic()
    fitted = fit_run(config, data)
    fit_seconds = time.monotonic() - started
    result: dict[str, Any] = {}
    if not config.training.fit_all:
        result = evaluate_lists(
            fitted.lists,
            data,
            "validation",
            batch=config.evaluation.batch,
            columns=fitted.plain.columns,
            share=ranks.share,
            by_group=(),  # as in training: a prior may have hundreds of groups
            reach=fitted.reach,
            total=ranks.total,
        )

    summary = {
        "steps": 0,
        "best_step": 0,
        f"validation/{SELECTED_BY}": result.get(SELECTED_BY),
        "stopped": "fitted",
        "plain": config.plain.name,
        "paths": len(fitted.path_names),
        "parameters": {"table": fitted.plain.numbers, "heads": 0, "encoder and score": 0},
        "ranks": ranks.world,
        "seconds_to_fit": round(fit_seconds, 3),
        "seconds_of_last_start": round(time.monotonic() - started, 3),
        "config_sha256": config.sha256(),
    }
    if ranks.leads:
        _write(config, data, folder, result, summary)
    return summary


def check_as_fitted(folder: RunFolder, data: PreparedData) -> None:
    """Checks that a run's data set is as it was when the baseline was fitted.

    Raises:
        UserError: the data set has grown since then.
    """
    if earlier_state(data, folder.origin()) is not None:
        raise UserError(
            f"'{data.folder}' has grown since '{folder.path}' was fitted: a plain baseline is "
            "fitted again when it is opened: train another run"
        )


def _write(
    config: RunConfig,
    data: PreparedData,
    folder: RunFolder,
    result: dict[str, Any],
    summary: dict[str, Any],
) -> None:
    """Writes the files of the run. The summary is last: a run with a summary is complete."""
    record_run(folder, config, data, ancestors=[])
    numbers = {f"validation/{name}": value for name, value in result.items()}
    line = {"step": 0, "seconds": summary["seconds_of_last_start"], **numbers}
    write_whole(folder.metrics, to_line(line) + "\n")

    origin = {"run_id": folder.origin().run_id, "log": length_and_checksum(folder.metrics)}
    write_json(folder.summary, summary | origin)
