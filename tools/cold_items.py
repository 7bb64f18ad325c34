"""Ranks cold items alone, by runs and by simple rules: how well do they describe what nobody has seen?

    python tools/cold_items.py --prior genre runs/ids runs/content

Lists contain only cold items, those without a training interaction. For each run, and for two rules
that know the groups of items only, it prints the recall and ndcg of users' cold targets:

- `popular groups`: an item's score is the number of training interactions of its groups;
- `user's groups`: it is the share of the user's history in its groups.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from chosen_items import evaluate_among

from torchrec_priors.apps import command
from torchrec_priors.apps.evaluate import Split
from torchrec_priors.data.histories import Histories, history_batches
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.batch import RankedBatch
from torchrec_priors.metrics.cold import ColdItems
from torchrec_priors.metrics.per_user import DEPTH, Ranked
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.open_run import open_run

NAMES = ("cold/recall@10", "cold/recall@50", "cold/ndcg@10")
# Scores [users, items].
Rule = Callable[[Histories], np.ndarray]


def cold_items(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of one data set.")],
    prior: Annotated[str, typer.Option(help="Prior of items, for the rules.")],
    split: Annotated[Split, typer.Option(help="Split with the targets.")] = Split.test,
) -> None:
    """Prints a line for each run and rule."""
    data = open_run(runs[0]).data
    cold_I = data.catalogue(["frequency"])["frequency"].to_numpy() == 0
    if not cold_I.any():
        raise UserError("every item has training interactions, so no item is cold")

    print(f"{'lists of cold items':<24}{''.join(f'{name:>16}' for name in NAMES)}")
    for name, rule in _rules(data, prior).items():
        _print(name, _of_rule(rule, data, split, cold_I))
    for run in runs:
        found = _of_run(run, split, cold_I)
        _print(run.name, found)
    print(f"{found['cold/targets']:,} targets of {found['cold/users']:,} users")


def _print(name: str, found: dict[str, Any]) -> None:
    print(f"{name:<24}{''.join(f'{found[column]:>16.4f}' for column in NAMES)}", flush=True)


def _of_run(run: Path, split: Split, cold_I: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of a run whose lists contain only cold items."""
    opened = open_run(run)
    with opened.join_ranks() as ranks:
        built = opened.build(ranks)
        opened.load_best(built)
        return evaluate_among(cold_I, opened, built, ranks, split.value)


def _rules(data: PreparedData, prior: str) -> dict[str, Rule]:
    """Returns the rules by name."""
    item_M, group_M = data.prior_pairs(prior, "item")
    member_IG = np.zeros((data.items, len(data.manifest.prior(prior).groups)))
    member_IG[item_M, group_M] = 1.0
    frequency = data.catalogue(["frequency"])["frequency"].to_numpy()
    popular_I = member_IG @ (frequency @ member_IG)

    def of_user(users: Histories) -> np.ndarray:
        user_X = np.repeat(np.arange(len(users)), users.seen_lengths)
        profile_BG = np.zeros((len(users), member_IG.shape[1]))
        np.add.at(profile_BG, user_X, member_IG[users.seen])
        scores: np.ndarray = profile_BG @ member_IG.T
        return scores

    return {
        "popular groups": lambda users: np.tile(popular_I, (len(users), 1)),
        "user's groups": of_user,
    }


def _of_rule(rule: Rule, data: PreparedData, split: Split, cold_I: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of a rule. Ties are broken at random."""
    metric = ColdItems(cold_I)
    random = np.random.default_rng(0)
    cold = np.flatnonzero(cold_I)
    for users in history_batches(data, split.value, context=1, batch=256):
        score_BC = rule(users)[:, cold] + random.uniform(0, 1e-6, (len(users), len(cold)))
        seen_B = np.repeat(np.arange(len(users)), users.seen_lengths)
        number_I = np.cumsum(cold_I) - 1
        is_cold = cold_I[users.seen]
        score_BC[seen_B[is_cold], number_I[users.seen[is_cold]]] = -np.inf

        row_BR = cold[np.argsort(-score_BC, axis=1)[:, :DEPTH]]
        row_BR = np.pad(row_BR, ((0, 0), (0, max(0, DEPTH - row_BR.shape[1]))), constant_values=-1)
        ranked = Ranked.of(row_BR, users.targets, users.target_lengths, data.items)
        metric.update(RankedBatch(users, ranked))
    return metric.results()


if __name__ == "__main__":
    command.run(cold_items, single_process=True)
