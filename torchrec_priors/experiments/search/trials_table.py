"""Writes `search/results.parquet` and `.md`: every trial, and the chosen values."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from torchrec_priors.common.files import new_file
from torchrec_priors.experiments.search.trials import Outcome, Search
from torchrec_priors.parquet import write_table

_SCHEMA = pa.schema(
    {
        "cell": pa.string(),
        "trial": pa.int64(),  # 0 is the cell without changes
        "values": pa.string(),  # JSON: dotted key -> value
        "score": pa.float64(),
        "seconds": pa.float64(),
        "chosen": pa.bool_(),
        "error": pa.string(),
    }
)


def write_parquet(search: Search, file: Path) -> None:
    """Writes a row for each trial, in the order of cells and trials."""
    rows = []
    for cell in search.cells:
        best = search.best(cell.name)
        for outcome in _outcomes(search, cell.name):
            rows.append(
                {
                    "cell": cell.name,
                    "trial": outcome.trial.number,
                    "values": json.dumps(outcome.trial.values),
                    "score": outcome.score,
                    "seconds": outcome.seconds,
                    "chosen": outcome is best,
                    "error": outcome.error,
                }
            )

    with new_file(file) as partial:
        write_table(pa.Table.from_pylist(rows, _SCHEMA), partial)


def markdown(search: Search, name: str, command: str, data: tuple[str, str]) -> str:
    """Writes the chosen values, then every trial.

    Args:
        name: the name of the experiment.
        command: the command that made the tables.
        data: the name and the content hash of the data set.
    """
    settings = search.settings
    seeds = ", ".join(map(str, settings.seeds))
    plural = "s" if len(settings.seeds) > 1 else ""
    parts = [
        f"# {name}, search on the validation split",
        f"Chosen by {settings.metric}, mean over seed{plural} {seeds}: for each cell the best of "
        f"up to {settings.trials} trials. The first trial is the unchanged cell.",
        "\n".join(_chosen(search)),
        "\n".join(_trials(search)),
    ]

    failed = [
        f"- {outcome.trial.cell.name}, trial {outcome.trial.number}: {outcome.error}"
        for outcome in search.outcomes
        if outcome.error
    ]
    if failed:
        parts.append("\n".join(["Without a score:", "", *failed]))

    footer = [
        f"- command: `{command}`",
        f"- proposals: Optuna's TPE, seed {settings.seed}, {settings.batch} at a time",
        f"- data set: {data[0]}, content sha256 `{data[1]}`",
    ]
    parts.append("\n".join(footer))
    return "\n\n".join(parts) + "\n"


def _chosen(search: Search) -> list[str]:
    """Writes the table of the cells with their chosen values."""
    lines = [
        "| cell | trials | unchanged | chosen | values | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for cell in search.cells:
        outcomes = _outcomes(search, cell.name)
        unchanged_score = None
        for outcome in outcomes:
            if outcome.trial.number == 0:
                unchanged_score = outcome.score

        best = search.best(cell.name)
        score = None
        values = "none"
        if best is not None:
            score = best.score
            values = _values(best) or "unchanged"
        seconds = sum(outcome.seconds for outcome in outcomes)
        cells = [
            cell.name,
            _number_of_trials(search, cell.name),
            _score(unchanged_score),
            _score(score),
            values,
            f"{seconds:.0f}",
        ]
        lines.append(_line(cells))
    return lines


def _number_of_trials(search: Search, cell: str) -> str:
    """Writes the number of trials with a score, and the number of all trials if some failed."""
    settings = search.settings.cells.get(cell)
    if settings and settings.like:
        return f"those of {settings.like}"
    outcomes = _outcomes(search, cell)
    scored = sum(outcome.score is not None for outcome in outcomes)
    return f"{scored}" if scored == len(outcomes) else f"{scored} of {len(outcomes)}"


def _trials(search: Search) -> list[str]:
    """Writes the table of all trials."""
    lines = [
        f"| cell | trial | {search.settings.metric} | seconds | values |",
        "|---|---|---|---|---|",
    ]
    for cell in search.cells:
        for outcome in _outcomes(search, cell.name):
            number = str(outcome.trial.number)
            seconds = f"{outcome.seconds:.0f}"
            cells = [cell.name, number, _score(outcome.score), seconds, _values(outcome)]
            lines.append(_line(cells))
    return lines


def _outcomes(search: Search, cell: str) -> list[Outcome]:
    return [outcome for outcome in search.outcomes if outcome.trial.cell.name == cell]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _values(outcome: Outcome) -> str:
    values = outcome.trial.values
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
