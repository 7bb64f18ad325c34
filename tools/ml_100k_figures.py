"""The MovieLens 100K table of the README: trains and evaluates each model with several seeds, and prints the table.

Runs that are finished are not repeated, so that the command can be given again after an interruption.
"""

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = {
    "next-item HSTU": ["model.horizon=1", "priors.tree=[]", "encoder.dropout=0.5"],
    "LT/ST_1": ["model.horizon=8", "priors.tree=[]"],
    "LT/ST_4": ["model.horizon=8", 'priors.tree=["temporal:4"]'],
    "Item x LT/ST_4": ["model.horizon=8", 'priors.tree=["temporal:4", "genre"]'],
}
SHOWN = ("recall@10", "ndcg@10", "entropy@10", "coverage@10")


def figures(
    data: Annotated[Path, typer.Option(help="Prepared MovieLens 100K.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    at_once: Annotated[int, typer.Option(help="Runs at the same time, one core each.")] = 2,
) -> None:
    """Prints mean and standard deviation over seeds on the test split, as a Markdown table."""
    jobs = [(model, seed) for seed in range(seeds) for model in MODELS]
    with ThreadPoolExecutor(at_once) as pool:
        results = dict(zip(jobs, pool.map(lambda job: _run(*job, data, out), jobs), strict=True))
    print(f"| model | heads | validation ndcg@10 | {' | '.join(SHOWN)} |")
    print("|---|---|---|" + "---|" * len(SHOWN))
    for model in MODELS:
        each = [results[model, seed] for seed in range(seeds)]
        heads = each[0]["paths"]
        cells = [_cell([result[name] for result in each]) for name in ("validation", *SHOWN)]
        print(f"| {model} | {heads} | {' | '.join(cells)} |")


def _run(model: str, seed: int, data: Path, out: Path) -> dict[str, float]:
    run = out / f"{model.replace('/', '').replace(' ', '-')}-{seed}"
    config = REPOSITORY / "torchx_configs" / "ml-100k.toml"
    _app("train", "--config", config, "--data", data, "--run", run, f"seed={seed}", *MODELS[model])
    _app("evaluate", "--run", run, "--split", "test")
    summary = json.loads((run / "summary.json").read_text())
    result: dict[str, float] = json.loads((run / "eval" / "test" / "metrics.json").read_text())
    print(f"{run.name}: test ndcg@10 {result['ndcg@10']:.4f}", file=sys.stderr)
    return {**result, "paths": summary["paths"], "validation": summary["validation/ndcg@10"]}


def _app(name: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"torchrec_priors.apps.{name}", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    typer.run(figures)
