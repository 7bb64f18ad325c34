"""`make demo`: a synthetic marketplace, HSTU without and with prior heads, and recommendations.

There are five models:

- Next item predicts one item.
- One head predicts the next eight items. The models with several heads are compared with it.
- LT/ST predicts the next eight items with a short-term and a long-term head.
- LT/ST x Item has these two heads for every level-1 category, and a gate that puts the categories'
  scores on one scale.
- LT/ST x Random is the control: each item has the label of another random item.

The settings of every model were chosen on validation, from the same number of trials
(torchx_configs/experiments/marketplace.toml).

Models are trained and evaluated on two processes. Every step is a command that is shown before it
runs. A demo that was interrupted resumes.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CONFIG = "torchx_configs/marketplace.toml"
CALIBRATED = ["loss.gate=1.0", "evaluation.calibrated=true", "evaluation.fusion=mean"]
NARROW = ["model.dim=32", "encoder.dropout=0.1"]
# Folder of the run -> title, and changes to the configuration.
MODELS = {
    "next-item": ("Next item", ["model.horizon=1", "priors.tree=[]", *NARROW, "encoder.layers=1"]),
    "one-head": ("One head", ["priors.tree=[]"]),
    "lt-st": ("LT/ST", ['priors.tree=["temporal:2"]', *NARROW]),
    "lt-st-category": ("LT/ST x Item", ['priors.tree=["temporal:2", "category"]', *CALIBRATED]),
    "lt-st-random": (
        "LT/ST x Random",
        ['priors.tree=["temporal:2", "random:category"]', *CALIBRATED],
    ),
}
EXPLAINED = ("lt-st", "lt-st-category")  # models whose recommendations are shown
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
    world: Annotated[
        str,
        typer.Option(help="World of the log, sessions or mixed (see datasets/marketplace.md)."),
    ] = "sessions",
) -> None:
    """Generates, prepares, trains, evaluates, recommends and reports."""
    os.chdir(REPOSITORY)
    started = time.monotonic()
    print("To run the commands below yourself, first run: . .venv/bin/activate")

    raw = folder / "raw"
    data = folder / "data"
    corpus = ["--dataset", "marketplace", "--generate", rows, "--raw", raw, "--out", data]
    corpus += ["--option", f"world={world}"]
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

    _print_table(raw, data, runs)
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


def _print_table(raw: Path, data: Path, runs: dict[str, Path]) -> None:
    """Prints the models side by side on the test split."""
    titles = [MODELS[name][0] for name in runs]
    print(f"\n=== on the test split\n{'':<44}{''.join(f'{title:>16}' for title in titles)}")
    metrics = [json.loads((run / "eval/test/metrics.json").read_text()) for run in runs.values()]
    for name, label in METRICS:
        print(f"{label:<44}" + "".join(f"{values[name]:>16.4f}" for values in metrics))

    planted = Planted(raw, data)
    inside, met = zip(*(planted.share(run) for run in runs.values()), strict=True)
    label = f"top {TOP} within the planted interests"
    print(f"{label:<44}" + "".join(f"{share:>16.1%}" for share in inside))
    label = f"planted interests covered by the top {TOP}"
    print(f"{label:<44}" + "".join(f"{share:>16.1%}" for share in met))
    print(
        f"Planted: the leaf categories ({planted.mean:.1f} on average) that the generator gave a "
        f"user for the time\nof the test interactions; {planted.chance:.1%} of the catalogue is in "
        "them. No model reads them."
    )


class Planted:
    """The interests that the generator gave each user for the time of the test interactions.

    Attributes:
        leaf: item -> its leaf category.
        held: user -> the leaf categories of the user's interests.
        mean: the average number of leaf categories of a user.
        chance: the average share of the catalogue that is in a user's interests.
    """

    def __init__(self, raw: Path, data: Path) -> None:
        horizon = json.loads((data / "manifest.json").read_text())["horizon"]
        users = _columns(data / "sequences", "user_id", "timestamps")
        # `begins` has the time of each user's first test interaction.
        begins = {}
        for user, times in zip(users["user_id"], users["timestamps"], strict=True):
            begins[user] = times[-horizon]

        items = _columns(raw / "items.parquet", "item_id", "category3")
        self.leaf = dict(zip(items["item_id"], items["category3"], strict=True))
        self.held: dict[int, set[str]] = defaultdict(set)
        interests = _columns(raw / "truth" / "interests.parquet", "user_id", "category3", "until")
        for user, leaf, until in zip(
            interests["user_id"], interests["category3"], interests["until"], strict=True
        ):
            if until >= begins.get(user, np.inf):
                self.held[user].add(leaf)

        sizes: dict[str, int] = defaultdict(int)
        for leaf in self.leaf.values():
            sizes[leaf] += 1
        self.mean = float(np.mean([len(held) for held in self.held.values()]))
        items_in_interests = [sum(sizes[leaf] for leaf in held) for held in self.held.values()]
        self.chance = float(np.mean(items_in_interests)) / len(self.leaf)

    def share(self, run: Path) -> tuple[float, float]:
        """Returns two means over users.

        The first is the share of recommended items that are in the user's interests. The second is
        the share of the user's interests that have a recommended item.
        """
        inside, met = zip(*self._users(run), strict=True)
        return float(np.mean(inside)), float(np.mean(met))

    def _users(self, run: Path) -> Iterator[tuple[float, float]]:
        """Yields both shares for each user."""
        predictions = _columns(run / "eval/test/predictions.parquet", "user_id", "items")
        for user, items in zip(predictions["user_id"], predictions["items"], strict=True):
            leaves = [self.leaf[item] for item in items[:TOP]]
            held = self.held[user]
            yield (
                np.mean([leaf in held for leaf in leaves]),
                len(held.intersection(leaves)) / len(held),
            )


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
{folder}/raw              the log (log, items, users) and the planted interests (truth/interests.parquet)
{folder}/data             the prepared data set: manifest.json, items, sequences, priors
{folder}/runs             {", ".join(run.name for run in runs)}; each: config.toml, checkpoints/, metrics.jsonl,
                     summary.json, eval/test/metrics.json, eval/test/predictions.parquet
{folder}/report           index.html: tables, figures and example users; open it in a browser

=== what to try next (after: . .venv/bin/activate)
torchrec-priors recommend --run {runs[0]} --user {user}
torchrec-priors recommend --run {folder}/runs/{EXPLAINED[-1]} --history 1,2,3
{shlex.join(another)}
torchrec-priors prepare --dataset marketplace --generate 1000000 --raw {folder}/raw-1m --out {folder}/data-1m
tensorboard --logdir {folder}/runs""")


if __name__ == "__main__":
    typer.run(demo)
