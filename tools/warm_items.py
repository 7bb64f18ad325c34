"""Compares runs on items that were trained: did content of items cost anything there?

    python tools/warm_items.py runs/ids-0 runs/ids-1 --other runs/content-0 --other runs/content-1

Items without a training interaction are cold, all others are warm. In lists of all items, cold items take
places of warm ones. If no target is cold, every such place is lost. So there are two rows: ndcg@10 in
lists of all items, and in lists of warm items only. The difference has an interval over users and seeds;
the first run is compared with the first other one, and so on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from chosen_items import evaluate_among

from torchrec_priors.apps import command
from torchrec_priors.apps.evaluate import Split
from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.experiments.statistics import Difference, intervals_of
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import Ranked
from torchrec_priors.retrieval.search_types import Found
from torchrec_priors.training.open_run import open_run

_LISTS = ("lists of all items", "lists of warm items")


def warm_items(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, one for each seed.")],
    other: Annotated[
        list[Path], typer.Option(help="Folders of the other runs of the same data set.")
    ],
    split: Annotated[Split, typer.Option(help="Split with the targets.")] = Split.validation,
) -> None:
    """Prints both models' ndcg@10 and the difference, in both kinds of lists."""
    if len(runs) != len(other):
        raise UserError(
            f"{len(runs)} runs cannot be compared with {len(other)} other ones: give one --other "
            "for each run"
        )

    theirs = _of_runs(runs, split)
    ours = _of_runs(other, split)
    (intervals,) = intervals_of([Difference.between(ours, theirs)])
    print(f"{'ndcg@10':<22}{'runs':>8}{'others':>8}   difference")
    for column, (lists, found) in enumerate(zip(_LISTS, intervals, strict=True)):
        means = [_mean(values, column) for values in (theirs, ours)]
        print(
            f"{lists:<22}{means[0]:>8.4f}{means[1]:>8.4f}   "
            f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
        )


def _mean(by_seed: dict[int, np.ndarray], column: int) -> float:
    return float(np.mean([values[:, column].mean() for values in by_seed.values()]))


def _of_runs(runs: Sequence[Path], split: Split) -> dict[int, np.ndarray]:
    """Returns each run's ndcg@10 of every user, [U, 2], with the kinds of lists as columns."""
    return {number: _of_run(run, split) for number, run in enumerate(runs)}


def _of_run(run: Path, split: Split) -> np.ndarray:
    opened = open_run(run)
    data = opened.data
    cold_I = data.catalogue(["frequency"])["frequency"].to_numpy() == 0
    if not cold_I.any():
        raise UserError(f"'{run}': every item has training interactions, so no item is cold")
    category = Categories.of_prior(data, data.manifest.category_prior)

    with opened.join_ranks() as ranks:
        built = opened.build(ranks)
        opened.load_best(built)

        def ndcg_among(chosen_I: np.ndarray) -> np.ndarray:
            values = []

            def keep(users: Histories, found: Found, _: object) -> None:
                row_BR = found.row_Bk.numpy()
                ranked = Ranked.of(row_BR, users.targets, users.target_lengths, data.items)
                values.append(ranked.values(10, category)["ndcg"])

            evaluate_among(chosen_I, opened, built, ranks, split.value, keep)
            return np.concatenate(values)

        return np.stack([ndcg_among(np.ones_like(cold_I)), ndcg_among(~cold_I)], 1)


if __name__ == "__main__":
    command.run(warm_items, single_process=True)
