"""Shows what each head knows about the near and the far future: how often it finds a target, by its offset.

    python tools/heads_by_offset.py --k 10 runs/one-head runs/segments

For each run, and for each head of it alone, it prints the recall@k of the targets at each offset: the
next item, the one after it, and so on.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from ranked_users import queries_of

from torchrec_priors.apps import command
from torchrec_priors.apps.evaluate import Split
from torchrec_priors.metrics.by_offset import ByOffset
from torchrec_priors.training.open_run import open_run

ALL = "all heads"


def heads_by_offset(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained runs.")],
    k: Annotated[int, typer.Option(min=1, help="Length of lists.")] = 10,
    split: Annotated[Split, typer.Option(help="Split with the targets.")] = Split.validation,
    users: Annotated[int, typer.Option(min=1, help="Users to search for at most.")] = 2_000,
) -> None:
    """Prints a line for each run, and one for each of its heads."""
    for run in runs:
        print(run.name)
        for name, sums in _sums(run, k, split, users).items():
            recalls = "".join(f"{value:>8.4f}" for value in sums.recall_T)
            print(f"  {name:<30}{recalls}", flush=True)


@torch.no_grad()
def _sums(run: Path, k: int, split: Split, users: int) -> dict[str, ByOffset]:
    """Returns the sums of all heads together and, if there are several, of each of them alone."""
    sums = {ALL: ByOffset(k)}
    for finder, context, queries in queries_of(open_run(run), split.value, users):
        sums[ALL].update(context, finder.find(context, queries, k))

        paths = finder.model.tree.paths
        if len(paths) == 1:
            continue
        for number, path in enumerate(paths):
            open_BK = torch.zeros_like(queries.bias_BK, dtype=torch.bool)
            open_BK[:, number] = True
            alone = sums.setdefault(path.name, ByOffset(k))
            alone.update(context, finder.find(context, queries.within(open_BK), k))
    return sums


if __name__ == "__main__":
    command.run(heads_by_offset, single_process=True)
