"""The app `evaluate`: evaluates a run's best checkpoint against the whole catalogue."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.apps.progress import with_progress
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.files import write_json
from torchrec_priors.config import RunConfig, read_override, with_changes
from torchrec_priors.data.histories import Histories
from torchrec_priors.data.histories import Split as HeldOut
from torchrec_priors.data.leaks import Leaks
from torchrec_priors.data.trained_part import TrainedPart
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.evaluation import evaluate as run_evaluation
from torchrec_priors.metrics.evaluation import evaluate_lists
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.retrieval.find import head_names
from torchrec_priors.retrieval.predictions import PredictionWriter
from torchrec_priors.retrieval.read_predictions import noted_of
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.training.open_run import OpenRun, open_run
from torchrec_priors.training.run.ancestry import Ancestry, read_ancestry

log = logging.getLogger(__name__)

# The metrics on the terminal. All others are only in metrics.json.
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


class Leaked(StrEnum):
    """How to treat users with targets that an ancestor of the run was trained on."""

    refuse = "refuse"
    leave_out = "leave-out"
    keep = "keep"


class Split(StrEnum):
    validation = "validation"
    test = "test"


def evaluate(
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    split: Annotated[Split, Option(help="Split with the interactions that are the targets.")],
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    name: Annotated[
        str | None,
        Option(
            help="Write to eval/<split>-<NAME>/ instead, so that evaluations with other settings "
            "are not overwritten."
        ),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    leaked: Annotated[
        Leaked,
        Option(
            help="What to do if the run started from another run that was trained on targets of "
            "some users: refuse to evaluate, leave these users out, or keep them. The metrics "
            "record this."
        ),
    ] = Leaked.refuse,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the run's settings evaluation.*; other settings cannot be changed.",
        ),
    ] = None,
) -> None:
    """Evaluates the recommendations for every user against the whole catalogue.

    It writes eval/<split>/metrics.json and predictions.parquet. If the model has heads for events,
    it also writes predictions_event_given.parquet.
    """
    check_threads(threads)
    opened = open_run(run, data, trust=trust, plain=True)
    opened = replace(opened, config=_with_overrides(opened.config, overrides or []))

    # Options that are wrong are rejected before the ranks meet.
    folder = opened.folder
    config = opened.config
    prepared = opened.data
    _check_name(name)
    if config.training.fit_all:
        raise UserError(
            f"--run: '{run}' was trained on all interactions (--fit-all): nothing is left to "
            "evaluate on"
        )
    folder.check_writable()
    if config.plain.name:
        from torchrec_priors.training.plain_run import check_as_fitted  # SciPy takes half a second

        check_as_fitted(folder, prepared)

    use_threads(threads)
    with opened.join_ranks() as ranks:
        ranks.where.doing = "evaluation"
        started = time.monotonic()

        ancestry = _ancestry(opened)
        leaks = ancestry.leaks(prepared, split.value, ranks)
        _check_leaks(leaks, ancestry, split, leaked)
        leave_out = leaks is not None and leaked is Leaked.leave_out
        clean_U = None
        if leaks is not None and leave_out:
            clean_U = leaks.clean_U

        if config.plain.name:
            evaluated = _plain(opened)
        else:
            evaluated = _neural(opened, ranks)

        item_ids = prepared.catalogue(["item_id"])["item_id"]
        path_names = evaluated.path_names
        out = folder.evaluation(split.value, name)
        reach = evaluated.reach

        def progress(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
            return with_progress(batches, rounds, "batch", leads=ranks.leads)

        with (
            PredictionWriter(
                out / "predictions.parquet", item_ids, path_names, ranks.side
            ) as predictions,
            PredictionWriter(
                out / "predictions_event_given.parquet", item_ids, path_names, ranks.side
            ) as predictions_event_given,
        ):

            def write(users: Histories, found: Found, given: Found | None) -> None:
                predictions.add(users, found)
                if given is not None:
                    predictions_event_given.add(users, given)

            result = evaluated.metrics(
                prepared,
                split.value,
                share=ranks.share,
                chosen=clean_U,
                reach=reach,
                total=ranks.total,
                on_batch=write,
                progress=progress,
            )

        # All ranks have the same sums, so only one rank writes the files.
        if not ranks.leads:
            return

        about = {
            "split": split.value,
            "users": result["users"],
            "items": prepared.items,
            "horizon": prepared.manifest.horizon,
            "filter_seen": config.evaluation.filter_seen,
            "fusion": config.evaluation.fusion,
            "calibrated": config.evaluation.calibrated,
            "diversify": config.evaluation.diversify,
            "seconds": round(time.monotonic() - started, 3),
            "ranks": ranks.world,
            "checkpoint": evaluated.checkpoint,
            "config_sha256": config.sha256(),
            "run_id": folder.origin().run_id,
            **noted_of(out / "predictions.parquet"),
        }
        with_targets = result["users"]
        if leaks is not None:  # includes the users that were left out, who have targets, too
            with_targets = leaks.users
        if with_targets < prepared.users:
            about["users_without_targets"] = prepared.users - with_targets
        if leaks is not None:
            about |= leaks.to_metrics() | {"leaked/left_out_users": leaks.users - result["users"]}
        if overrides:
            about["overrides"] = overrides
        write_json(out / "metrics.json", {**about, **result})

        of_all = ""
        if result["users"] != prepared.users:
            of_all = f" of {prepared.users:,}"
        what = config.plain.name or evaluated.checkpoint
        print(
            f"{run} on {split.value}, {what}, {result['users']:,}{of_all} users, "
            f"{prepared.items:,} items:"
        )
        print("  ".join(f"{name} {result[name]:.4f}" for name in _PRINTED if name in result))
        _print_leaks(leaks, ancestry, leave_out=leave_out)
        _print_reach(reach, result)
        print(f"written to {out}")


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


def _print_leaks(leaks: Leaks | None, ancestry: Ancestry, *, leave_out: bool) -> None:
    if leaks is None or leaks.in_words() is None:
        return
    treatment = "left out" if leave_out else "kept, so the figures are too good"
    print(f"this run comes from {ancestry.in_words()}: {leaks.in_words()}: {treatment}")


def _print_reach(reach: Reach, result: Mapping[str, Any]) -> None:
    """Prints how many targets could be found at all, and warns about the others."""
    reached = reach.in_words()
    if reached is not None:
        print(reached)

    if "unseen/items" in result:
        print(
            f"unseen by the run: {result['unseen/items']:,} items, "
            f"{result['unseen/targets']:,} targets ({result['unseen/targets_share']:.1%}, misses "
            f"unless recommended), {result['unseen/interactions']:,} interactions of the histories "
            f"({result['unseen/interactions_share']:.1%})"
        )

    for warning in reach.warnings():
        log.warning("warning: %s", warning)


def _with_overrides(config: RunConfig, overrides: list[str]) -> RunConfig:
    # Changes of other settings would not fit the trained model.
    changes = [read_override(override) for override in overrides]
    for key, _ in changes:
        if not key.startswith("evaluation."):
            raise UserError(
                f"'{key}' was decided when the run was trained: evaluate changes only evaluation.*"
            )
    return with_changes(asdict(config), changes)


def _check_leaks(leaks: Leaks | None, ancestry: Ancestry, split: Split, leaked: Leaked) -> None:
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
    if leaked is Leaked.leave_out and not (leaks.clean_U & leaks.has_U).any():
        raise UserError(
            f"--leaked leave-out: {origin}: nobody is left to evaluate on the {split.value} split"
        )
    if leaked is Leaked.refuse and leaks.leaked_users:
        raise UserError(
            f"--run: the {split.value} split is not held out, as {origin}: --leaked leave-out "
            "evaluates only the other users, --leaked keep all users, and metrics.json says so"
        )
    if leaked is Leaked.refuse:
        log.warning("warning: %s: metrics.json says so", origin)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[\w.+=-]+", name):
        raise UserError(
            f"--name: '{name}' becomes part of a folder's name: use only letters, digits and "
            ". _ + = -"
        )


def main() -> None:
    command.run(evaluate)


if __name__ == "__main__":
    main()
