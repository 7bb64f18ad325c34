"""Evaluates a run's best checkpoint against the whole catalogue: `run.evaluate`, and the app."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from torchrec_priors.api.metrics import Metrics
from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.common.progress import with_progress
from torchrec_priors.config import read_override, with_changes
from torchrec_priors.data.histories import Histories
from torchrec_priors.data.histories import Split as HeldOut
from torchrec_priors.data.leaks import Leaks
from torchrec_priors.data.trained_part import TrainedPart
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.age import ages_of_items
from torchrec_priors.metrics.evaluation import evaluate as run_evaluation
from torchrec_priors.metrics.evaluation import evaluate_lists
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.remote.uri import Place
from torchrec_priors.retrieval.find import head_names
from torchrec_priors.retrieval.predictions import PredictionWriter
from torchrec_priors.retrieval.read_predictions import noted_of
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.open_run import OpenRun, open_run
from torchrec_priors.training.run.ancestry import Ancestry, read_ancestry

log = logging.getLogger(__name__)

# The metrics in the summary. All others are only in metrics.json.
_PRINTED = (
    "recall@5",
    "recall@10",
    "ndcg@5",
    "ndcg@10",
    "entropy@10",
    "coverage@10",
    "novelty@10",
    "event_given/recall@10",
    "event_given/ndcg@10",
)
Leaked = Literal["refuse", "leave-out", "keep"]


def evaluate(
    run: Place | str,
    split: HeldOut,
    data: Place | str | None = None,
    *,
    name: str | None = None,
    changes: Sequence[str] = (),
    leaked: Leaked = "refuse",
    trust: bool = False,
    progress: bool = True,
    ready: Callable[[], object] = lambda: None,
) -> tuple[Metrics, bool]:
    """Evaluates the best checkpoint of a run on all ranks of a launcher.

    It writes eval/<split>/metrics.json and predictions.parquet. If the model has heads for events,
    it also writes predictions_event_given.parquet.

    Args:
        run: the folder or URI of the run. For a URI, the evaluation is written into the local copy
            of the run, whose path the summary names.
        split: the split with the targets.
        data: the prepared data set, if it has moved since training.
        name: a name for the folder of the evaluation, so that no other one is overwritten.
        changes: changes to the run's settings `evaluation.*`, such as "evaluation.diversify=0.1".
        leaked: what to do with users with targets that an ancestor of the run was trained on.
        trust: whether to execute the custom code that the run was trained with.
        progress: whether the progress is printed to standard error.
        ready: called when what can be checked early is checked.

    Returns:
        The metrics, and whether this is the rank that prints.

    Raises:
        UserError: nothing is held out, a setting is wrong, or changes without a name would replace
            an evaluation with other settings.
    """
    opened = open_run(run, data, trust=trust, plain=True)
    opened = replace(opened, config=_with_overrides(opened.config, changes))
    prepared = opened.data

    # Options that are wrong are rejected before the ranks meet.
    _check_name(name)
    if changes and name is None:
        _check_replaced(opened.folder.evaluation(split), list(changes))
    _check_run(opened, run)
    ready()
    with opened.join_ranks() as ranks:
        ranks.where.doing = "evaluation"
        started = time.monotonic()

        ancestry = _ancestry(opened)
        leaks = ancestry.leaks(prepared, split, ranks)
        _check_leaks(leaks, ancestry, split, leaked)
        leave_out = leaks is not None and leaked == "leave-out"
        clean_U = None
        if leaks is not None and leave_out:
            clean_U = leaks.clean_U

        evaluated = _plain(opened) if opened.config.plain.name else _neural(opened, ranks)
        out = opened.folder.evaluation(split, name)
        result = _metrics(evaluated, prepared, split, ranks, clean_U, out, progress=progress)
        about = _about(opened, split, ranks, evaluated.checkpoint, result)
        about["seconds"] = round(time.monotonic() - started, 3)

        # All ranks have the same sums, so only one rank writes the files.
        if not ranks.leads:
            return Metrics({**about, **result}, out, ""), False
        about |= noted_of(out / "predictions.parquet") | _left_out(prepared, leaks, result)
        if changes:
            about["overrides"] = list(changes)
        values = {**about, **result}
        write_json(out / "metrics.json", values)

        reach = evaluated.reach
        what = opened.config.plain.name or evaluated.checkpoint
        lines = [
            *_figures(f"{run} on {split}, {what}", prepared, result),
            *_leaks_in_words(leaks, ancestry, leave_out=leave_out),
            *_reach_in_words(reach, result),
            f"written to {out}",
        ]
        for warning in reach.warnings():
            log.warning("warning: %s", warning)
        return Metrics(values, out, "\n".join(lines)), True


@dataclass(frozen=True)
class _Evaluated:
    """A model that is ready to be evaluated.

    Attributes:
        checkpoint: the name of the checkpoint that it was loaded from.
        path_names: the names of its heads.
        reach: the metric that counts the targets that it can find.
        metrics: computes all metrics of a split; see `evaluate_lists`.
    """

    checkpoint: str
    path_names: list[str]
    reach: Reach
    metrics: Callable[..., dict[str, Any]]


def _metrics(
    evaluated: _Evaluated,
    data: PreparedData,
    split: HeldOut,
    ranks: Ranks,
    clean_U: np.ndarray | None,
    out: Path,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Computes all metrics, and writes the predictions. Every rank must call it.

    Args:
        clean_U: bool, the users to evaluate on; None for all users.
        out: the folder of the evaluation.
        progress: whether the progress is printed to standard error.
    """
    item_ids = data.catalogue(["item_id"])["item_id"]

    def show(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
        leads = ranks.leads and progress
        return with_progress(batches, rounds, "batch", leads=leads, doing="evaluation")

    def writer(name: str) -> PredictionWriter:
        return PredictionWriter(out / name, item_ids, evaluated.path_names, ranks.side)

    with (
        writer("predictions.parquet") as predictions,
        writer("predictions_event_given.parquet") as predictions_event_given,
    ):

        def write(users: Histories, found: Found, given: Found | None) -> None:
            predictions.add(users, found)
            if given is not None:
                predictions_event_given.add(users, given)

        return evaluated.metrics(
            data,
            split,
            share=ranks.share,
            chosen=clean_U,
            age_I=ages_of_items(data),
            reach=evaluated.reach,
            total=ranks.total,
            on_batch=write,
            progress=show,
        )


def _about(
    opened: OpenRun, split: HeldOut, ranks: Ranks, checkpoint: str, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what metrics.json says about the evaluation, besides the metrics."""
    config = opened.config
    return {
        "split": split,
        "users": result["users"],
        "items": opened.data.items,
        "horizon": opened.data.manifest.horizon,
        "filter_seen": config.evaluation.filter_seen,
        "fusion": config.evaluation.fusion,
        "calibrated": config.evaluation.calibrated,
        "diversify": config.evaluation.diversify,
        "ranks": ranks.world,
        "checkpoint": checkpoint,
        "config_sha256": config.sha256(),
        "run_id": opened.folder.origin().run_id,
    }


def _left_out(data: PreparedData, leaks: Leaks | None, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what metrics.json says about users who were not evaluated."""
    about: dict[str, Any] = {}
    with_targets = result["users"]
    if leaks is not None:  # includes the users that were left out, who have targets, too
        with_targets = leaks.users
    if with_targets < data.users:
        about["users_without_targets"] = data.users - with_targets
    if leaks is not None:
        about |= leaks.to_metrics() | {"leaked/left_out_users": leaks.users - result["users"]}
    return about


def _figures(what: str, data: PreparedData, result: Mapping[str, Any]) -> Iterator[str]:
    """Yields what was evaluated, and the main figures."""
    of_all = ""
    if result["users"] != data.users:
        of_all = f" of {data.users:,}"
    yield f"{what}, {result['users']:,}{of_all} users, {data.items:,} items:"
    yield "  ".join(f"{name} {result[name]:.4f}" for name in _PRINTED if name in result)


def _ancestry(opened: OpenRun) -> Ancestry:
    """Returns the ancestry of a run. It is empty for a plain baseline, which is fitted to a log."""
    if opened.config.plain.name:
        return Ancestry([], TrainedPart.none())
    return read_ancestry(opened.folder)


def _neural(opened: OpenRun, ranks: Ranks) -> _Evaluated:
    """Loads the best checkpoint of a run. Every rank must call it."""
    built = opened.build(ranks)
    model = built.model
    model.tree.say_what_is_left_out()
    checkpoint = opened.load_best(built)

    # The index is built first, because for a managed table this updates the set of items that have
    # rows, which `Reach` reads.
    index = built.fetch_index()
    settings = opened.config.evaluation

    def metrics(prepared: PreparedData, split: HeldOut, **more: Any) -> dict[str, Any]:
        return run_evaluation(
            model,
            index,
            prepared,
            split,
            settings,
            device=ranks.device,
            columns=built.columns,
            **more,
        )

    return _Evaluated(checkpoint, head_names(model), Reach.of(model, settings), metrics)


def _plain(opened: OpenRun) -> _Evaluated:
    """Fits the plain baseline of a run again."""
    from torchrec_priors.training.plain_run import CHECKPOINT, fit_run

    fitted = fit_run(opened.config, opened.data)
    metrics = partial(
        evaluate_lists,
        fitted.lists,
        batch=opened.config.evaluation.batch,
        columns=fitted.plain.columns,
    )
    return _Evaluated(CHECKPOINT, fitted.path_names, fitted.reach, metrics)


def _leaks_in_words(leaks: Leaks | None, ancestry: Ancestry, *, leave_out: bool) -> list[str]:
    if leaks is None or leaks.in_words() is None:
        return []
    treatment = "left out" if leave_out else "kept, so the figures are too good"
    return [f"this run comes from {ancestry.in_words()}: {leaks.in_words()}: {treatment}"]


def _reach_in_words(reach: Reach, result: Mapping[str, Any]) -> Iterator[str]:
    """Yields how many targets could be found at all."""
    reached = reach.in_words()
    if reached is not None:
        yield reached

    if "unseen/items" in result:
        yield (
            f"unseen by the run: {result['unseen/items']:,} items, "
            f"{result['unseen/targets']:,} targets ({result['unseen/targets_share']:.1%}, misses "
            f"unless recommended), {result['unseen/interactions']:,} interactions of the histories "
            f"({result['unseen/interactions_share']:.1%})"
        )


def _with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    # Changes of other settings would not fit the trained model.
    changes = [read_override(override) for override in overrides]
    for key, _ in changes:
        if not key.startswith("evaluation."):
            raise UserError(
                f"'{key}' was decided when the run was trained: evaluate changes only evaluation.*"
            )
    return with_changes(asdict(config), changes)


def _check_leaks(leaks: Leaks | None, ancestry: Ancestry, split: HeldOut, leaked: Leaked) -> None:
    """Rejects a split if ancestors of the run were trained on its targets.

    With --leaked leave-out or keep, the split is accepted. If it is unknown whether ancestors were
    trained on its targets, a warning is logged.

    Raises:
        UserError: ancestors were trained on targets, and --leaked is "refuse"; or --leaked leaves
            out all users.
    """
    if leaks is None:
        return
    leak = leaks.in_words()
    if leak is None:
        return

    origin = f"this run comes from {ancestry.in_words()}: {leak}"
    if leaked == "leave-out" and not (leaks.clean_U & leaks.has_U).any():
        raise UserError(
            f"--leaked leave-out: {origin}: nobody is left to evaluate on the {split} split"
        )
    if leaked == "refuse" and leaks.leaked_users:
        raise UserError(
            f"--run: the {split} split is not held out, as {origin}: --leaked leave-out "
            "evaluates only the other users, --leaked keep all users, and metrics.json says so"
        )
    if leaked == "refuse":
        log.warning("warning: %s: metrics.json says so", origin)


def _check_run(opened: OpenRun, run: Place | str) -> None:
    """Raises UserError if the run cannot be evaluated, or its evaluation cannot be written."""
    if opened.config.training.fit_all:
        raise UserError(
            f"--run: '{run}' was trained on all interactions (--fit-all): nothing is left to "
            "evaluate on"
        )
    opened.data.manifest.require_users("evaluate", opened.data.folder)
    opened.folder.check_writable()
    if opened.config.plain.name:
        from torchrec_priors.training.plain_run import check_as_fitted  # SciPy takes half a second

        check_as_fitted(opened.folder, opened.data)


def _check_replaced(out: Path, changes: list[str]) -> None:
    """Raises UserError if an evaluation with other settings would be replaced without a word.

    The run's own settings always replace what is there: the folder without a name is theirs.
    """
    try:
        replaced = read_json(out / "metrics.json", remedy="")
    except UserError:
        return
    if replaced.get("overrides", []) != changes:
        raise UserError(
            f"'{out}' has an evaluation with other settings: keep it, and give this one a name, "
            "such as --name other"
        )


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[\w.+=-]+", name):
        raise UserError(
            f"--name: '{name}' becomes part of a folder's name: use only letters, digits and "
            ". _ + = -"
        )
