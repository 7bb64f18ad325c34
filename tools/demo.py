"""`make demo`: a synthetic marketplace, HSTU without and with prior heads, and recommendations.

There are five models:

- Next item predicts one item.
- One head predicts the next eight items. The models with several heads are compared with it.
- Groups has a head for each group of users (bargain hunters, mid-range and premium shoppers).
- LT/ST x Groups has a short-term and a long-term head for each group.
- Random is the control: each user has the group of another random user.

All models have the same settings (torchx_configs/marketplace-mixed.toml), which were chosen on
validation. In this world, groups of users are one of several kinds of knowledge that have a signal
of their own (datasets/marketplace.md).

Models are trained and evaluated on two processes. Every step is a command that is shown before it
runs. A demo that was interrupted resumes.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CONFIG = "torchx_configs/marketplace-mixed.toml"
# Folder of the run -> title, and changes to the configuration.
MODELS = {
    "next-item": ("Next item", ["model.horizon=1", "priors.tree=[]"]),
    "one-head": ("One head", ["priors.tree=[]"]),
    "groups": ("Groups", []),
    "lt-st-groups": ("LT/ST x Groups", ['priors.tree=["temporal:2", "spending"]']),
    "random-groups": ("Random", ['priors.tree=["random:spending"]']),
}
EXPLAINED = ("groups", "lt-st-groups")  # models whose recommendations are shown
METRICS = (  # metrics, and their labels in the table
    ("recall@10", "recall@10"),
    ("ndcg@10", "ndcg@10"),
    ("entropy@10", "entropy@10 (bits)"),
    ("coverage@10", "coverage@10"),
    ("novelty@10", "novelty@10 (bits)"),
    ("new_interest/recall@10", "new_interest/recall@10"),
    ("new_interest/ndcg@10", "new_interest/ndcg@10"),
)
TOP = 10
USERS_SHOWN = 2


def demo(
    changes: Annotated[
        list[str] | None, typer.Argument(help="key=value for every model, to try a smaller run.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Folder of all files, relative to the repository.")
    ] = Path("demo"),
    rows: Annotated[int, typer.Option(help="Interactions of the log.")] = 200_000,
) -> None:
    """Generates, prepares, trains, evaluates, recommends and reports."""
    os.chdir(REPOSITORY)
    started = time.monotonic()
    print("To run the commands below yourself, first run: . .venv/bin/activate")

    raw = folder / "raw"
    data = folder / "data"
    corpus = ["--dataset", "marketplace", "--generate", rows, "--raw", raw, "--out", data]
    corpus += ["--option", "world=mixed"]
    _step("a made-up marketplace log, prepared", "torchrec-priors", "prepare", *corpus)

    runs = {name: folder / "runs" / name for name in MODELS}
    for name, (title, settings) in MODELS.items():
        arguments = ["--config", CONFIG, "--data", data, "--run", runs[name], *settings]
        _component(f"{title}: training on 2 processes", "train", *arguments, *(changes or []))
    for name, (title, _) in MODELS.items():
        arguments = ["--run", runs[name], "--split", "test"]
        _component(
            f"{title}: every user of the test split, the whole catalogue", "evaluate", *arguments
        )

    users = _example_users(data)
    for user in users:
        for name in EXPLAINED:
            step_title = f"{MODELS[name][0]}: recommendations for user {user}, with reasons"
            arguments = ["--run", runs[name], "--user", user, "-k", TOP]
            _step(step_title, "torchrec-priors", "recommend", *arguments)

    page = folder / "report"
    step_title = "a page of all results: what each prior gains, and for whom"
    arguments = ["--runs", folder / "runs", "--out", page]
    _step(step_title, "torchrec-priors", "report", *arguments)

    _print_table(raw, runs)
    _print_folders(folder, list(runs.values()), users[0])
    print(f"\nThe report: {(page / 'index.html').absolute()}")
    print(f"Done in {time.monotonic() - started:.0f} s.")


def _component(title: str, name: str, *arguments: object) -> None:
    """Runs an app on two processes, with its TorchX component."""
    _step(title, *_component_command(name, *arguments))


def _component_command(name: str, *arguments: object) -> list[str]:
    """Returns the command that runs an app on two processes."""
    component = f"components/{name}.py:{name}"
    return ["torchx", "run", "-s", "local_cwd", component, "-j", "1x2", *map(str, arguments)]


def _step(title: str, program: str, *arguments: object) -> None:
    """Runs a command of the virtual environment and shows its output.

    If it fails, the demo ends with its exit code.
    """
    command = [program, *map(str, arguments)]
    print(f"\n=== {title}\n$ {shlex.join(command)}", flush=True)

    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    started = time.monotonic()
    # The program is called by its path, because the virtual environment may be inactive.
    done = subprocess.run([BIN / program, *command[1:]], env=environment)
    took = f"{time.monotonic() - started:.0f} s"
    if done.returncode:
        print(f"=== failed with exit code {done.returncode} after {took}", file=sys.stderr)
        print(
            "    (is a demo of other settings or an earlier version in the way? remove its folder)",
            file=sys.stderr,
        )
        sys.exit(done.returncode)
    print(f"=== {took}", flush=True)


def _example_users(data: Path) -> list[int]:
    """Returns the ids of the users whose recommendations are shown."""
    ids = _columns(data / "sequences", "user_id")["user_id"]
    return [ids[number * len(ids) // USERS_SHOWN] for number in range(USERS_SHOWN)]


def _print_table(raw: Path, runs: dict[str, Path]) -> None:
    """Prints the models side by side on the test split."""
    titles = [MODELS[name][0] for name in runs]
    print(f"\n=== on the test split\n{'':<44}{''.join(f'{title:>16}' for title in titles)}")
    metrics = [json.loads((run / "eval/test/metrics.json").read_text()) for run in runs.values()]
    for name, label in METRICS:
        print(f"{label:<44}" + "".join(f"{values[name]:>16.4f}" for values in metrics))

    planted = Planted(raw)
    own, other = zip(*(planted.shares(run) for run in runs.values()), strict=True)
    label = f"top {TOP}: favourites of the user's group"
    print(f"{label:<44}" + "".join(f"{share:>16.1%}" for share in own))
    label = f"top {TOP}: favourites of the other groups"
    print(f"{label:<44}" + "".join(f"{share:>16.1%}" for share in other))
    print(
        f"Favourites: the generator gave each of {planted.groups} groups of users its own, "
        f"{planted.chance:.1%} of the catalogue.\nNo model reads them."
    )


class Planted:
    """The favourites that the generator gave each group of users.

    Attributes:
        group: user -> the group.
        favourites: group -> its items.
        groups: the number of groups.
        chance: the average share of the catalogue that is a group's favourites.
    """

    def __init__(self, raw: Path) -> None:
        groups = _columns(raw / "truth" / "groups.parquet", "user_id", "label")
        self.group = dict(zip(groups["user_id"], groups["label"], strict=True))

        # The file also has the favourites of event types.
        self.favourites: dict[str, set[int]] = {group: set() for group in self.group.values()}
        labels = _columns(raw / "truth" / "favourites.parquet", "item_id", "label")
        for item, label in zip(labels["item_id"], labels["label"], strict=True):
            if label in self.favourites:
                self.favourites[label].add(item)

        self.groups = len(self.favourites)
        items = len(_columns(raw / "items.parquet", "item_id")["item_id"])
        sizes = [len(favourites) for favourites in self.favourites.values()]
        self.chance = float(np.mean(sizes)) / items

    def shares(self, run: Path) -> tuple[float, float]:
        """Returns two means over users.

        The first is the share of recommended items that are favourites of the user's group. The
        second is the share that are favourites of the other groups, and not of the user's.
        """
        own, other = zip(*self._users(run), strict=True)
        return float(np.mean(own)), float(np.mean(other))

    def _users(self, run: Path) -> Iterator[tuple[float, float]]:
        """Yields both shares for each user."""
        everything = set().union(*self.favourites.values())
        predictions = _columns(run / "eval/test/predictions.parquet", "user_id", "items")
        for user, items in zip(predictions["user_id"], predictions["items"], strict=True):
            top = set(items[:TOP])
            own = self.favourites[self.group[user]]
            yield len(top & own) / TOP, len((top & everything) - own) / TOP


def _columns(file: Path, *names: str) -> dict[str, list[Any]]:
    """Reads columns of a Parquet file, or of a folder of such files."""
    table = pq.read_table(file, columns=list(names), page_checksum_verification=True)
    return {name: table[name].to_pylist() for name in names}


def _print_folders(folder: Path, runs: list[Path], user: int) -> None:
    """Prints the folders of the demo, and commands to try next."""
    another = _component_command(
        "train", "--config", CONFIG, "--data", folder / "data", "--run", folder / "runs/temporal-4",
        'priors.tree=["temporal:4"]',
    )  # fmt: skip
    print(f"""
=== where everything is
{folder}/raw              the log (log, items, users) and what was planted in it (truth/)
{folder}/data             the prepared data set: manifest.json, items, sequences, priors
{folder}/runs             {", ".join(run.name for run in runs)}; each: config.toml, checkpoints/, metrics.jsonl,
                     summary.json, eval/test/metrics.json, eval/test/predictions.parquet
{folder}/report           index.html: tables, figures and example users; open it in a browser

=== what to try next (after: . .venv/bin/activate)
torchrec-priors recommend --run {runs[0]} --user {user}
torchrec-priors recommend --run {folder}/runs/{EXPLAINED[-1]} --history 1,2,3
{shlex.join(another)}
torchrec-priors prepare --dataset marketplace --generate 1000000 --option world=mixed --raw {folder}/raw-1m --out {folder}/data-1m
python tools/oracle.py {folder}/raw
tensorboard --logdir {folder}/runs""")


if __name__ == "__main__":
    typer.run(demo)
