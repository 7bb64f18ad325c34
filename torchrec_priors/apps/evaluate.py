"""Full-catalogue evaluation of a run's best checkpoint."""

import logging
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from tqdm import tqdm
from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.common.files import write_json
from torchrec_priors.config import RunConfig, read_override, with_changes
from torchrec_priors.data.histories import Histories
from torchrec_priors.data.leaks import Leaks
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.evaluation import evaluate as run_evaluation
from torchrec_priors.metrics.reach import Reach
from torchrec_priors.retrieval.predictions import PredictionWriter
from torchrec_priors.retrieval.read_predictions import noted_of
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.training.open_run import open_run
from torchrec_priors.training.run.ancestry import Ancestry, read_ancestry

log = logging.getLogger(__name__)

_SHOWN = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "entropy@10", "coverage@10", "novelty@10",
          "event_given/recall@10", "event_given/ndcg@10")  # fmt: skip


class Leaked(StrEnum):
    """What becomes of users with targets that an ancestor of the run was trained on."""

    refuse = "refuse"
    leave_out = "leave-out"
    keep = "keep"


class Split(StrEnum):
    validation = "validation"
    test = "test"


def evaluate(
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    split: Annotated[Split, Option(help="Which interactions are the targets.")],
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, where it has moved since training."),
    ] = None,
    name: Annotated[
        str | None,
        Option(
            help="Write to eval/<split>-<NAME>/ instead, to keep evaluations of other settings apart."
        ),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    leaked: Annotated[
        Leaked,
        Option(
            help="Where a run that this one started from was trained on targets of some users: refuse to evaluate, "
            "leave these users out, or keep them. The metrics say which."
        ),
    ] = Leaked.refuse,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the run's `evaluation` settings, and to these alone.",
        ),
    ] = None,
) -> None:
    """Scores every user against the whole catalogue; writes eval/<split>/metrics.json and predictions.parquet.

    Where the model has heads for events, predictions_event_given.parquet, too.
    """
    opened = open_run(run, data, trust=trust)
    opened = replace(opened, config=_changed(opened.config, overrides or []))
    folder = opened.folder
    config = opened.config
    prepared = opened.data
    _check_name(name)
    if config.training.fit_all:
        raise UserError(
            f"--run: '{run}' was trained on all interactions (--fit-all): nothing is left to evaluate on"
        )
    folder.check_writable()
    with opened.join_ranks() as ranks:
        ranks.where.doing = "evaluation"
        started = time.monotonic()
        ancestry = read_ancestry(folder)
        leaks = ancestry.leaks(prepared, split.value, ranks)
        _check_leaks(leaks, ancestry, split, leaked)
        leave_out = leaks is not None and leaked is Leaked.leave_out
        built = opened.build(ranks)
        built.model.tree.say_what_is_left_out()
        checkpoint = opened.load_best(built)
        item_ids = prepared.catalogue(["item_id"])["item_id"]
        names = [path.name for path in built.model.tree.paths]
        place = folder.evaluation(split.value, name)
        index = built.index  # before what reads the rows that will be searched
        reach = Reach.of(built.model, config.evaluation)

        def shown(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
            return tqdm(batches, total=rounds, unit="batch", disable=None if ranks.leads else True)

        with (
            PredictionWriter(
                place / "predictions.parquet", item_ids, names, ranks.side
            ) as predictions,
            PredictionWriter(
                place / "predictions_event_given.parquet", item_ids, names, ranks.side
            ) as told,
        ):

            def write(users: Histories, found: Found, given: Found | None) -> None:
                predictions.add(users, found)
                if given is not None:
                    told.add(users, given)

            result = run_evaluation(
                built.model,
                index,
                prepared,
                split.value,
                config.evaluation,
                share=ranks.share,
                device=ranks.device,
                columns=built.columns,
                chosen=leaks.clean_U if leaks is not None and leave_out else None,
                reach=reach,
                total=ranks.total,
                on_batch=write,
                progress=shown,
            )
        if ranks.leads:
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
                "checkpoint": checkpoint,
                "config_sha256": config.sha256(),
                "run_id": folder.origin().run_id,
                **noted_of(place / "predictions.parquet"),
            }
            with_targets = result["users"] if leaks is None else leaks.users
            if with_targets < prepared.users:
                about["users_without_targets"] = prepared.users - with_targets
            if leaks is not None:
                about |= leaks.to_metrics() | {
                    "leaked/left_out_users": leaks.users - result["users"]
                }
            if overrides:
                about["overrides"] = overrides
            write_json(place / "metrics.json", {**about, **result})
            of = "" if result["users"] == prepared.users else f" of {prepared.users:,}"
            print(
                f"{run} on {split.value}, {checkpoint}, {result['users']:,}{of} users, {prepared.items:,} items:"
            )
            print("  ".join(f"{name} {result[name]:.4f}" for name in _SHOWN if name in result))
            if leaks is not None and leaks.in_words() is not None:
                what = "left out" if leave_out else "kept, so the figures are too good"
                print(f"this run comes from {ancestry.in_words()}: {leaks.in_words()}: {what}")
            if (reached := reach.in_words()) is not None:
                print(reached)
            if "unseen/items" in result:
                print(
                    f"unseen by the run: {result['unseen/items']:,} items, "
                    f"{result['unseen/targets']:,} targets ({result['unseen/targets_share']:.1%}, misses unless "
                    f"recommended), {result['unseen/interactions']:,} interactions of the histories "
                    f"({result['unseen/interactions_share']:.1%})"
                )
            for warning in reach.warnings():
                log.warning("warning: %s", warning)
            print(f"written to {place}")


def _changed(config: RunConfig, overrides: list[str]) -> RunConfig:
    changes = [read_override(override) for override in overrides]
    for key, _ in changes:
        if not key.startswith("evaluation."):
            raise UserError(
                f"'{key}' was decided when the run was trained: evaluate changes evaluation.* alone"
            )
    return with_changes(asdict(config), changes)


def _check_leaks(leaks: Leaks | None, ancestry: Ancestry, split: Split, leaked: Leaked) -> None:
    """Raises UserError where targets were trained on and nobody said what becomes of their users; warns where that
    cannot be told."""
    said = None if leaks is None else leaks.in_words()
    if leaks is None or said is None:
        return
    what = f"this run comes from {ancestry.in_words()}: {said}"
    if leaked is Leaked.leave_out and not (leaks.clean_U & leaks.has_U).any():
        raise UserError(
            f"--leaked leave-out: {what}: nobody is left to evaluate on the {split.value} split"
        )
    if leaked is Leaked.refuse and leaks.leaked_users:
        raise UserError(
            f"--run: the {split.value} split is not held out, as {what}: --leaked leave-out evaluates the others, "
            "--leaked keep all, marked in the metrics"
        )
    if leaked is Leaked.refuse:
        log.warning("warning: %s: the figures are marked", what)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[\w.+=-]+", name):
        raise UserError(
            f"--name: '{name}' becomes part of a folder's name: letters, digits and . _ + = - alone"
        )


def main() -> None:
    command.run(evaluate)


if __name__ == "__main__":
    main()
