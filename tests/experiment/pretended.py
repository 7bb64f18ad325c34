"""Apps that only pretend: a training is a few files, an evaluation recommends at random."""

import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchrec_priors.common.files import write_json
from torchrec_priors.config import load_config, read_override, with_changes
from torchrec_priors.data.histories import history_batches
from torchrec_priors.metrics.categories import Categories
from torchrec_priors.metrics.per_user import DEPTH
from torchrec_priors.metrics.ranking import RankingMetrics
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.record import record_run


class Pretended:
    """A launcher; `calls` holds what it was asked for, `broken` what goes wrong: error by app or run's name."""

    def __init__(self):
        self.calls, self.broken, self.guard = [], {}, threading.Lock()
        self.stopped, self.threads = False, set()

    def run(self, app, options, overrides, log):
        folder = RunFolder(options["run"])
        with self.guard:
            self.calls.append((app, folder.path.name, options.get("name")))
            self.threads.add((app, options.get("threads")))
        error = self.broken.get(app) or self.broken.get(folder.path.name)
        if isinstance(error, BaseException):
            raise error
        if error is None:
            _train(folder, options, overrides) if app == "train" else evaluate(
                folder, options, overrides
            )
        return error

    def stop(self):
        self.stopped = True

    def asked(self):
        """What it was asked for since the last time, sorted."""
        calls, self.calls = sorted(self.calls, key=str), []
        return calls


def _train(folder, options, overrides):
    config = load_config(options["config"], overrides)
    record_run(folder, config, PreparedData(options["data"]))
    (folder.checkpoints / "step-00000001").mkdir(exist_ok=True)
    (folder.checkpoints / "step-00000001" / ".metadata").touch()
    sizes = {"table": 4, "heads": 2, "encoder and score": 1}
    summary = {
        "steps": 2,
        "best_step": 1,
        "validation/ndcg@10": 0.5,
        "stopped": "end of schedule",
        "paths": 3,
    }
    more = {
        "parameters": sizes,
        "ranks": 1,
        "seconds_of_last_start": 1.5,
        "config_sha256": config.sha256(),
    }
    write_json(folder.summary, summary | more)


def evaluate(folder, options, overrides):
    """Random recommendations, others for each seed and name, with their metrics."""
    trained, data = folder.open()
    config = with_changes(
        json.loads(json.dumps(trained, default=vars)), map(read_override, overrides)
    )
    split, name = options["split"], options["name"]
    place = folder.path / "eval" / (split if name is None else f"{split}-{name}")
    place.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([trained.seed, len(name or ""), trained.model.horizon])
    ids = data.catalogue(["item_id"])["item_id"].combine_chunks()
    category = Categories.of_prior(data, data.manifest.category_prior)
    metrics = RankingMetrics(data.items, np.ones(data.items), category, [])
    users = {"user_id": [], "targets": [], "items": []}
    for batch in history_batches(data, split, context=5, batch=7):
        row_BR = random.permuted(np.tile(np.arange(data.items), (len(batch), 1)), axis=1)[:, :DEPTH]
        row_BR = np.pad(row_BR, ((0, 0), (0, DEPTH - row_BR.shape[1])), constant_values=-1)
        row_BR[0, 6:] = -1  # a short list
        metrics.update(batch, row_BR)
        users["user_id"] += batch.user_ids.to_pylist()
        users["targets"] += [
            ids.take(pa.array(part)) for part in np.split(batch.targets, len(batch))
        ]
        users["items"] += [ids.take(pa.array(row[row >= 0])) for row in row_BR]
    lists = {key: [part.to_pylist() for part in users[key]] for key in ("targets", "items")}
    pq.write_table(pa.table({"user_id": users["user_id"], **lists}), place / "predictions.parquet")
    about = {
        "split": split,
        "seconds": 0.1,
        "checkpoint": "step-00000001",
        "config_sha256": config.sha256(),
    }
    (place / "metrics.json").write_text(json.dumps(about | metrics.results()))
