"""Shows where heads for groups of items gain and lose: between groups, or inside them.

    python tools/inside_groups.py --prior category runs/one-head runs/categories

For each run it prints, as means over targets,

- `bits`: -log2 of the probability of the target: lower is better;
- `between` and `inside`: the two parts of it, the group of the target and the item in its group;
- `group@1`: how often the group of the target is the most probable one;
- `recall@10`: how often the target is in the list;
- `inside@10`: how often it is among the best 10 items of its group.

Scores must be log-probabilities, up to a number for each user. This holds for calibrated scores, for
heads that were trained in one softmax (`loss.softmax=joint`), and for models in which each user has
one head.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from ranked_users import queries_of

from torchrec_priors.apps import command
from torchrec_priors.apps.evaluate import Split
from torchrec_priors.errors import UserError
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.inside_groups import InsideGroups
from torchrec_priors.training.open_run import open_run

TITLES = ("bits", "between", "inside", "group@1", "recall@10", "inside@10")


def inside_groups(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained runs.")],
    prior: Annotated[str, typer.Option(help="Prior that gives each item one group.")],
    split: Annotated[Split, typer.Option(help="Split with the targets.")] = Split.validation,
    users: Annotated[int, typer.Option(min=1, help="Users to score at most.")] = 2_000,
) -> None:
    """Prints a line for each run."""
    print(f"{'run':<32}{''.join(f'{title:>11}' for title in TITLES)}")
    for run in runs:
        sums = _sums(run, prior, split, users)
        values = (
            sums.bits / sums.targets,
            sums.group_bits / sums.targets,
            (sums.bits - sums.group_bits) / sums.targets,
            sums.group_hits / sums.targets,
            sums.hits / sums.targets,
            sums.inside_hits / sums.targets,
        )
        print(f"{run.name:<32}{''.join(f'{value:>11.4f}' for value in values)}", flush=True)
        if sums.left_out:
            print(f"  left out: {sums.left_out:,} targets that are never recommended")
    print(f"{sums.targets:,} targets of {sums.users:,} users")


@torch.no_grad()
def _sums(run: Path, prior: str, split: Split, users: int) -> InsideGroups:
    """Ranks the whole catalogue for some users of a run."""
    opened = open_run(run)
    is_joint = opened.config.loss.softmax == "joint"
    sums = InsideGroups.of(Categories.of_prior(opened.data, prior))
    for finder, context, queries in queries_of(opened, split.value, users):
        open_B = queries.bias_BK.isfinite().sum(1)
        if not (finder.calibrated or is_joint) and int(open_B.max()) > 1:
            raise UserError(
                f"'{run}': scores of several heads are not probabilities unless they are "
                "calibrated: train with loss.gate and evaluation.calibrated, or with "
                "loss.softmax=joint"
            )
        sums.update(context, finder.find(context, queries, opened.data.items))
    return sums


if __name__ == "__main__":
    command.run(inside_groups, single_process=True)
