"""Prints the scores that nobody can exceed on a generated log of mixed interests.

    python tools/oracle.py raw/marketplace

Each row knows other things of the users. The gain of a row is the most that a prior of this kind
can add. `bits` is -log2 of the probability of the next item: the sum of what is known lowers it.
"""

from pathlib import Path
from typing import Annotated

import typer

from torchrec_priors.apps import command
from torchrec_priors.synthetic.mixed.mix import Source
from torchrec_priors.synthetic.mixed.oracle import KNOWABLE, Oracle

ROWS = {
    "nothing of the user": (),
    **{f"only {source.name}": (source,) for source in list(Source)[1:]},
    **{
        f"all but {source.name}": tuple(other for other in KNOWABLE if other is not source)
        for source in KNOWABLE
    },
    "all": KNOWABLE,
    "all, and the next event types": tuple(Source),
}


def oracle(
    raw: Annotated[Path, typer.Argument(help="Folder that `prepare --generate` wrote.")],
    horizon: Annotated[int, typer.Option(min=1, help="Targets of a user.")] = 8,
    k: Annotated[int, typer.Option(min=1, help="Length of the lists.")] = 10,
    users: Annotated[int, typer.Option(min=1, help="Users to score at most.")] = 2_000,
) -> None:
    """Prints a table of oracles that know different things."""
    made = Oracle.of(raw, horizon=horizon, most_users=users)
    titles = (f"recall@{k}", f"ndcg@{k}", f"entropy@{k}", "bits")
    print(f"{'known':<32}{''.join(f'{title:>12}' for title in titles)}")
    for name, known in ROWS.items():
        scores = made.scores(known, k)
        values = (scores.recall, scores.ndcg, scores.entropy, scores.bits)
        print(f"{name:<32}{''.join(f'{value:>12.4f}' for value in values)}", flush=True)
    print(
        f"{scores.users:,} users, the last {horizon} interactions of each; their categories have "
        f"{scores.target_entropy:.4f} bits of entropy"
    )


if __name__ == "__main__":
    command.run(oracle, single_process=True)
