"""Writes the card of a model: `README.md`, whose first lines are metadata that the hub reads.

Everything in it is recorded by the run. The license is what the user says, and left out otherwise.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrec_priors.common.files import read_json
from torchrec_priors.remote.hub import Repository
from torchrec_priors.serving.run import LoadedRun

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

log = logging.getLogger(__name__)

LIBRARY = "torchrec-priors"
_TAGS = ["recommendation", "sequential-recommendation", "torchrec", LIBRARY]
_SPLITS = ("validation", "test")
_METRICS = (
    "recall@5",
    "recall@10",
    "ndcg@5",
    "ndcg@10",
    "coverage@10",
    "novelty@10",
    "entropy@10",
)
_MOST_GROUPS = 20  # groups of a prior that the card names

_LIMITS = """\
- It recommends the {items:,} items of its data set, and no others.
- It knows what is in a history, and nothing else about a person. Its recommendations repeat what
  people in the data set did, with their habits and prejudices.
- The interactions and the users of the data set are not in this folder. Titles and labels of items
  are, and so are the sizes of the groups of users.
- The metrics are those of one data set, one split and one run. A model for other items or other
  people must be trained on their data.
"""


def card_of(
    loaded: LoadedRun, license: str | None, repository: Repository | None, name: str
) -> str:
    """Returns the text of the card.

    Args:
        loaded: the run, loaded with its whole data set.
        license: the license that the user gave; None to leave it out.
        repository: the repository on the hub; None for a local folder.
        name: the name of the model, if there is no repository.
    """
    from huggingface_hub import ModelCard, ModelCardData

    evaluations = _evaluations(loaded)
    title = name if repository is None else repository.name.rpartition("/")[2]
    metadata = ModelCardData(
        license=license,
        library_name=LIBRARY,
        tags=_TAGS,
        model_name=title,
        eval_results=list(_results(loaded, evaluations)) or None,
        ignore_metadata_errors=False,
    )
    text = "\n".join(_text(loaded, title, evaluations, license, repository))
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}"))


def _evaluations(loaded: LoadedRun) -> dict[str, dict[str, Any]]:
    """Returns the metrics of the run's checkpoint, by the name of the split."""
    found = {}
    run_id = loaded.folder.origin().run_id
    for split in _SPLITS:
        file = loaded.folder.evaluation(split) / "metrics.json"
        if not file.is_file():
            continue
        values = read_json(file, remedy="evaluate again")
        is_of_run = (values.get("checkpoint"), values.get("run_id")) == (loaded.checkpoint, run_id)
        if is_of_run and "overrides" not in values:
            found[split] = values
        else:
            log.warning(
                "'%s' is of another checkpoint, or of changed settings: the card does not have it",
                file,
            )
    if not found:
        log.warning("the run was not evaluated: the card has no metrics")
    return found


def _results(loaded: LoadedRun, evaluations: dict[str, dict[str, Any]]) -> Iterator["EvalResult"]:
    """Yields the metrics in the form of the hub."""
    from huggingface_hub import EvalResult

    data = loaded.data.manifest.name
    for split, values in evaluations.items():
        for metric in _METRICS:
            if metric in values:
                yield EvalResult(
                    task_type="recommendation",
                    task_name="Sequential recommendation",
                    dataset_type=data,
                    dataset_name=data,
                    dataset_split=split,
                    metric_type=metric,
                    metric_name=metric,
                    metric_value=values[metric],
                )


def _text(
    loaded: LoadedRun,
    title: str,
    evaluations: dict[str, dict[str, Any]],
    license: str | None,
    repository: Repository | None,
) -> Iterator[str]:
    """Yields the lines of the card below its metadata."""
    manifest = loaded.data.manifest
    config = loaded.config
    counts = manifest.counts

    yield f"# {title}"
    yield ""
    yield (
        f"A recommender for the {loaded.data.items:,} items of the data set `{manifest.name}`, "
        f"trained with torchrec_priors. It reads the last {config.model.context} items of a "
        f"history, and recommends what may come next. {len(loaded.heads):,} light heads share one "
        f"encoder ({config.encoder.backbone}, {config.model.dim} dimensions)."
    )
    yield ""

    yield from _priors(loaded)
    yield from _metrics(evaluations)
    yield from _use(loaded, repository)

    yield "## Data"
    yield ""
    yield f"- Data set: `{manifest.name}`, checksum `{manifest.prepared_sha256}`"
    yield (
        f"- {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} "
        f"interactions"
    )
    yield f"- Split: {manifest.split}"
    if config.training.fit_all:
        yield "- Trained on all interactions, including those of validation and test"
    ancestors = loaded.folder.origin().ancestors
    for ancestor in ancestors or ():
        yield f"- Started from the weights of another run: `{Path(ancestor.run).name}`"
    yield f"- Checkpoint: `{loaded.checkpoint}`, seed {config.seed}"
    yield ""

    yield "## Limits"
    yield ""
    yield _LIMITS.format(items=loaded.data.items)
    if license is None:
        yield "Nobody has said under which license this model may be used."
        yield ""


def _priors(loaded: LoadedRun) -> Iterator[str]:
    """Yields the section about the prior tree."""
    yield "## Priors"
    yield ""
    levels = loaded.model.tree.levels
    if not len(levels):
        yield "The model has no priors: one head for all items."
        yield ""
        return
    yield (
        "A prior divides items, users or times into groups, and every group has a head of its own. "
        f"The levels of the tree ({loaded.config.priors.composition}):"
    )
    yield ""
    for level, groups in zip(levels, loaded.model.tree.group_names, strict=True):
        named = ", ".join(groups[:_MOST_GROUPS])
        more = f", and {len(groups) - _MOST_GROUPS} more" if len(groups) > _MOST_GROUPS else ""
        yield f"- `{level.name}`: {named}{more}"
    yield ""


def _metrics(evaluations: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields the section with the metrics."""
    if not evaluations:
        return
    yield "## Metrics"
    yield ""
    yield "Against the whole catalogue, for every user with targets."
    yield ""
    yield f"| metric | {' | '.join(evaluations)} |"
    yield f"|---|{'---|' * len(evaluations)}"
    for metric in _METRICS:
        if all(metric in values for values in evaluations.values()):
            numbers = " | ".join(f"{values[metric]:.4f}" for values in evaluations.values())
            yield f"| {metric} | {numbers} |"
    users = " | ".join(f"{values['users']:,}" for values in evaluations.values())
    yield f"| users | {users} |"
    yield ""


def _use(loaded: LoadedRun, repository: Repository | None) -> Iterator[str]:
    """Yields the section about how to load the model."""
    address = "FOLDER" if repository is None else f"hf://{repository.name}"
    ids = loaded.catalogue.item_ids(list(range(min(3, loaded.data.items))))
    yield "## Use"
    yield ""
    yield "```sh"
    yield "pip install 'torchrec-priors[hf]'"
    yield f"torchrec-priors recommend --run {address} --history '{','.join(map(str, ids))}'"
    yield f"torchrec-priors serve --run {address} --state sqlite:users.sqlite"
    yield "```"
    yield ""
    yield "```python"
    yield "from torchrec_priors import load_run"
    yield ""
    yield f'with load_run("{address}") as run:'
    yield f"    for found in run.recommend(history={ids!r}, k=5):"
    yield "        print(found.title, found.head)"
    yield "```"
    yield ""
    yield (
        "Weights are in `model.safetensors` (no pickle), settings in `config.toml`, and items and "
        "labels in `data/`. With the whole data set (`--data`), `evaluate` computes the metrics "
        "again."
    )
    yield ""
