"""`search/results.parquet` and `.md`: every trial, and what was chosen."""

import json
from pathlib import Path

import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.experiment.search.trials import Outcome, Search
from torchrec_priors.parquet import write_table

_SCHEMA = pa.schema(
    {
        "cell": pa.string(),
        "trial": pa.int64(),  # 0 is the cell as it stands
        "values": pa.string(),  # JSON, by dotted key
        "score": pa.float64(),
        "seconds": pa.float64(),
        "chosen": pa.bool_(),
        "error": pa.string(),
    }
)


def write_parquet(search: Search, file: Path) -> None:
    """A row a trial, in the order of cells and trials."""
    rows = [
        {
            "cell": cell.name,
            "trial": one.trial.number,
            "values": json.dumps(one.trial.values),
            "score": one.score,
            "seconds": one.seconds,
            "chosen": one is search.best(cell.name),
            "error": one.error,
        }
        for cell in search.cells
        for one in _of(search, cell.name)
    ]
    with new_file(file) as partial:
        write_table(pa.Table.from_pylist(rows, _SCHEMA), partial)


def markdown(search: Search, name: str, command: str, data: tuple[str, str]) -> str:
    """What was chosen, then every trial; `data` is name and content hash of the data set."""
    settings = search.settings
    seeds = ", ".join(map(str, settings.seeds))
    parts = [
        f"# {name}, search on the validation split",
        f"Chosen by {settings.metric}, mean over seed{'s' * (len(settings.seeds) > 1)} {seeds}: of each cell the best "
        f"of up to {settings.trials} trials, the first of which is the cell as it stands.",
        "\n".join(_chosen(search)),
        "\n".join(_trials(search)),
    ]
    failed = [
        f"- {one.trial.cell.name}, trial {one.trial.number}: {one.error}"
        for one in search.outcomes
        if one.error
    ]
    if failed:
        parts.append("\n".join(["Without a score:", "", *failed]))
    content = f"- data set: {data[0]}, content sha256 `{data[1]}`"
    proposed = f"- proposals: Optuna's TPE, seed {settings.seed}, {settings.batch} at a time"
    parts.append("\n".join([f"- command: `{command}`", proposed, content]))
    return "\n\n".join(parts) + "\n"


def _chosen(search: Search) -> list[str]:
    lines = [
        "| cell | trials | as it stands | chosen | values | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for cell in search.cells:
        outcomes = _of(search, cell.name)
        best = search.best(cell.name)
        scored = sum(one.score is not None for one in outcomes)
        trials = f"{scored}" if scored == len(outcomes) else f"{scored} of {len(outcomes)}"
        its = search.settings.cells.get(cell.name)
        if its and its.like:
            trials = f"those of {its.like}"
        own = next((one.score for one in outcomes if one.trial.number == 0), None)
        said = "none" if best is None else _values(best) or "as it stands"
        seconds = sum(one.seconds for one in outcomes)
        values = [
            cell.name,
            trials,
            _score(own),
            _score(None if best is None else best.score),
            said,
            f"{seconds:.0f}",
        ]
        lines.append(f"| {' | '.join(values)} |")
    return lines


def _trials(search: Search) -> list[str]:
    lines = [
        f"| cell | trial | {search.settings.metric} | seconds | values |",
        "|---|---|---|---|---|",
    ]
    for cell in search.cells:
        for one in _of(search, cell.name):
            line = f"| {cell.name} | {one.trial.number} | {_score(one.score)} | {one.seconds:.0f} | {_values(one)} |"
            lines.append(line)
    return lines


def _of(search: Search, cell: str) -> list[Outcome]:
    return [one for one in search.outcomes if one.trial.cell.name == cell]


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _values(one: Outcome) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in one.trial.values.items())
