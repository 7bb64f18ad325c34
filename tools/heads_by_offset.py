"""Shows what each head knows about the near and the far future: how often it finds a target, by its offset.

    python tools/heads_by_offset.py --k 10 runs/one-head runs/segments

For each run, and for each head of it alone, it prints the recall@k of the targets at each offset: the
next item, the one after it, and so on.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from ranked_users import Look, rank_users

from torchrec_priors.apps import command
from torchrec_priors.apps.evaluate import Split
from torchrec_priors.data.histories import Histories
from torchrec_priors.metrics.by_offset import ByOffset
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.search_types import Queries
from torchrec_priors.training.open_run import OpenRun

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


def _sums(run: Path, k: int, split: Split, users: int) -> dict[str, ByOffset]:
    """Returns the sums of all heads together and, if there are several, of each of them alone."""
    found = {ALL: ByOffset(k)}

    def look(_: OpenRun, tree: PriorTree) -> Look:
        names = [path.name for path in tree.paths]
        if len(names) > 1:
            found.update({name: ByOffset(k) for name in names})

        def add(finder: Finder, context: Histories, queries: Queries) -> None:
            found[ALL].update(context, finder.find(context, queries, k))
            if len(names) > 1:
                for number, name in enumerate(names):
                    open_BK = torch.zeros_like(queries.bias_BK, dtype=torch.bool)
                    open_BK[:, number] = True
                    found[name].update(context, finder.find(context, queries.within(open_BK), k))

        return add

    rank_users(run, split.value, users, look)
    return found


if __name__ == "__main__":
    command.run(heads_by_offset, single_process=True)
