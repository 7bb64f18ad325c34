"""The app `evaluate`: evaluates a run's best checkpoint against the whole catalogue."""

from enum import StrEnum
from functools import partial
from typing import Annotated

from typer import Argument, Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import RUN, TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads


class Leaked(StrEnum):
    """How to treat users with targets that an ancestor of the run was trained on."""

    refuse = "refuse"
    leave_out = "leave-out"
    keep = "keep"


class Split(StrEnum):
    validation = "validation"
    test = "test"


def evaluate(
    run: Annotated[str, Option(metavar="PATH|URI", help=RUN)],
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
    with command.starting():
        from torchrec_priors.api.evaluate import evaluate as evaluate_run

    metrics, leads = evaluate_run(
        run,
        split.value,
        data,
        name=name,
        changes=overrides or [],
        leaked=leaked.value,
        trust=trust,
        ready=partial(use_threads, threads, warns=True),
    )
    if leads:
        print(metrics.summary)


def main() -> None:
    command.run(evaluate)


if __name__ == "__main__":
    main()
