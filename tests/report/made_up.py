"""Runs that nobody trained: what `train` and `evaluate` leave, with recommendations as good as is asked for."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.common.files import write_json
from torchrec_priors.config import read_override, with_changes
from torchrec_priors.data.histories import history_batches
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.record import record_run

HEADS = ("short-term / Comedy", "long-term / <Drama>")


def train(folder, data, *overrides, heads=1):
    """A run that was trained; returns its folder."""
    run = RunFolder(folder)
    config = with_changes({}, map(read_override, overrides))
    record_run(run, config, PreparedData(data))
    sizes = {
        "table": 1000,
        "heads": 64 * (heads > 1) * heads,
        "encoder and score": 10 * config.model.dim,
    }
    about = {"paths": heads, "parameters": sizes, "best_step": 20, "config_sha256": config.sha256()}
    write_json(run.summary, {"steps": 20, "ranks": 1, **about})
    lines = []
    for step in range(1, 21):
        lines.append({"step": step, "loss": 8 - step / 10, "rate": 1.0, "seconds": 0.5 * step})
        if step % 5 == 0:
            lines.append(
                {
                    "step": step,
                    "validation/ndcg@10": step / 100,
                    "validation/entropy@10": 3 - step / 40,
                }
            )
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    piece = {"rank": 0, "first_row": 0, "rows": 150, "first_column": 0, "columns": 64}
    table = {"name": "item", "module": "table", "rows": 150, "columns": 64, "block": 0}
    plan = {
        "table": table,
        "type": "row_wise",
        "kernel": "fused",
        "pieces": [piece],
        "cache_load_factor": None,
    }
    run.sharding.write_text(json.dumps({"ranks": 1, "tables": [plan]}))
    return run


def evaluate(run, split="test", *, skill=0.0, name=None, overrides=(), heads=HEADS, seed=0):
    """An evaluation in which a target comes first with probability `skill`; the rest is at random."""
    trained, data = run.open()
    config = with_changes(
        json.loads(json.dumps(trained, default=vars)), map(read_override, overrides)
    )
    place = run.evaluation(split, name)
    place.mkdir(parents=True)
    random = np.random.default_rng([seed, trained.seed])
    ids = data.catalogue(["item_id"])["item_id"].combine_chunks()
    priors = [
        Categories.of_prior(data, prior.name)
        for prior in data.manifest.priors
        if prior.kind != "event"
    ]
    category = next(prior for prior in priors if prior.name == data.manifest.category_prior)
    metrics = RankingMetrics(
        data.items, np.ones(data.items), category, [p for p in priors if p is not category]
    )
    users = {"user_id": [], "targets": [], "items": [], "scores": [], "heads": []}
    for batch in history_batches(data, split, context=5, batch=7):
        row_BR = np.full((len(batch), DEPTH), -1)
        for number, targets in enumerate(
            np.split(batch.targets, np.cumsum(batch.target_lengths)[:-1])
        ):
            known = np.unique(targets)[random.random(len(np.unique(targets))) < skill]
            row = np.concatenate(
                [known, np.setdiff1d(random.permutation(data.items), known, assume_unique=True)]
            )
            row_BR[number, : min(len(row), DEPTH)] = row[:DEPTH]
        metrics.update(batch, row_BR)
        users["user_id"] += batch.user_ids.to_pylist()
        users["targets"] += [
            ids.take(pa.array(part)).to_pylist() for part in np.split(batch.targets, len(batch))
        ]
        for row in row_BR:
            found = ids.take(pa.array(row[row >= 0])).to_pylist()
            users["items"].append(found)
            users["scores"].append([1.0] * len(found))
            users["heads"].append([heads[place % len(heads)] for place in range(len(found))])
    pq.write_table(pa.table(users), place / "predictions.parquet")
    about = {
        "split": split,
        "seconds": 0.5,
        "horizon": data.manifest.horizon,
        "checkpoint": "step-00000020",
    }
    about |= {"fusion": config.evaluation.fusion, "config_sha256": config.sha256()}
    if overrides:
        about["overrides"] = list(overrides)
    write_json(place / "metrics.json", about | metrics.results())
    return place


ONE_HEAD = ["model.horizon=1", "priors.tree=[]"]
MODELS = {  # folder -> what it is, how good, how many heads
    "one-head": (ONE_HEAD, 0.1, 1),
    "lt-st-1": (["priors.tree=[]"], 0.1, 1),
    "lt-st-4": (['priors.tree=["temporal:4"]'], 0.4, 4),
    "genre": (['priors.tree=["genre"]'], 0.2, 19),
    "genre-lt-st-2": (['priors.tree=["temporal:2", "genre"]'], 0.5, 38),
    "genre-lt-st-2-add": (
        ['priors.tree=["temporal:2", "genre"]', "priors.composition=additive"],
        0.3,
        21,
    ),
    "age": (['priors.tree=["age"]'], 0.3, 7),
}


def write_runs(folder, data, seeds=(0, 1)):
    """`MODELS` in folders of their own, with a second, named evaluation of one; returns their folder."""
    for name, (overrides, skill, heads) in MODELS.items():
        for seed in seeds:
            run = train(
                folder / f"{name}-seed{seed}", data, *overrides, f"seed={seed}", heads=heads
            )
            evaluate(run, skill=skill)
            if name == "genre":
                evaluate(
                    run, skill=0.25, name="averaged", overrides=["evaluation.fusion=mean"], seed=7
                )
    return folder
