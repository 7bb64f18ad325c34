"""Full-catalogue evaluation of a run's best checkpoint."""

import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from tqdm import tqdm
from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.config import RunConfig, read_override, with_changes
from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.evaluation import evaluate as run_evaluation
from torchrec_priors.retrieval.predictions import PredictionWriter
from torchrec_priors.retrieval.search import Found
from torchrec_priors.training.build import build_model
from torchrec_priors.training.checkpoint import Checkpoints
from torchrec_priors.training.process import join
from torchrec_priors.training.run_folder import RunFolder, write_json

_SHOWN = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "entropy@10", "coverage@10", "novelty@10",
          "event_given/recall@10", "event_given/ndcg@10")  # fmt: skip


class Split(StrEnum):
    validation = "validation"
    test = "test"


def evaluate(
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    split: Annotated[Split, Option(help="Which interactions are the targets.")],
    data: Annotated[
        str | None, Option(metavar="PATH|URI", help="Prepared data set, where it has moved since training.")
    ] = None,
    name: Annotated[
        str | None, Option(help="Write to eval/<split>-<NAME>/ instead, to keep evaluations of other settings apart.")
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="[KEY=VALUE]...", help="Changes to the run's `evaluation` settings, and to these alone."),
    ] = None,
) -> None:
    """Scores every user against the whole catalogue; writes eval/<split>/metrics.json and predictions.parquet.

    Where the model has heads for events, predictions_event_given.parquet, too.
    """
    folder = RunFolder(run, trust)
    config, prepared = folder.open(data)
    config = _changed(config, overrides or [])
    _check_name(name)
    if config.training.fit_all:
        raise UserError(f"--run: '{run}' was trained on all interactions (--fit-all): nothing is left to evaluate on")
    folder.say_grown(config, prepared)
    with join() as ranks:
        started = time.monotonic()
        built = build_model(config, prepared, ranks, trained=folder.trained_on(config, prepared), for_training=False)
        checkpoint = Checkpoints(folder.checkpoints, ranks).load_best(built)
        item_ids = prepared.catalogue(["item_id"])["item_id"]
        names = [path.name for path in built.model.tree.paths]
        place = folder.evaluation(split.value, name)

        def shown(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
            return tqdm(batches, total=rounds, unit="batch", disable=None if ranks.leads else True)

        with (
            PredictionWriter(place / "predictions.parquet", item_ids, names, ranks.side) as predictions,
            PredictionWriter(place / "predictions_event_given.parquet", item_ids, names, ranks.side) as told,
        ):

            def write(users: Histories, found: Found, given: Found | None) -> None:
                predictions.add(users, found)
                if given is not None:
                    told.add(users, given)

            result = run_evaluation(
                built.model,
                built.index,
                prepared,
                split.value,
                config.evaluation,
                share=ranks.share,
                device=ranks.device,
                columns=built.columns,
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
            }
            if result["users"] < prepared.users:
                about["users_without_targets"] = prepared.users - result["users"]
            if overrides:
                about["overrides"] = overrides
            write_json(place / "metrics.json", {**about, **result})
            of = "" if result["users"] == prepared.users else f" of {prepared.users:,}"
            print(f"{run} on {split.value}, {checkpoint}, {result['users']:,}{of} users, {prepared.items:,} items:")
            print("  ".join(f"{name} {result[name]:.4f}" for name in _SHOWN if name in result))
            if "unseen/items" in result:
                print(
                    f"unseen by the run: {result['unseen/items']:,} items, "
                    f"{result['unseen/targets']:,} targets ({result['unseen/targets_share']:.1%}, misses unless "
                    f"recommended), {result['unseen/interactions']:,} interactions of the histories "
                    f"({result['unseen/interactions_share']:.1%})"
                )
            print(f"written to {place}")


def _changed(config: RunConfig, overrides: list[str]) -> RunConfig:
    changes = [read_override(override) for override in overrides]
    for key, _ in changes:
        if not key.startswith("evaluation."):
            raise UserError(f"'{key}' was decided when the run was trained: evaluate changes evaluation.* alone")
    return with_changes(asdict(config), changes)


def _check_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[\w.+=-]+", name):
        raise UserError(f"--name: '{name}' becomes part of a folder's name: letters, digits and . _ + = - alone")


def main() -> None:
    command.run(evaluate)


if __name__ == "__main__":
    main()
