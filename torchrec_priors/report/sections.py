"""What belongs in one table: the evaluations on one split of one data set, by label, a row over its seeds."""

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

from torchrec_priors.baselines.baseline import interests_of, labelled
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiment.statistics import mean_and_deviation
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.report.runs import Result
from torchrec_priors.report.variant import Variant
from torchrec_priors.settings.baseline import BaselineConfig

log = logging.getLogger(__name__)

_TEST_FIRST = ("test", "validation")


@dataclass
class Row:
    """One model, with all its seeds."""

    label: str
    variant: Variant
    results: list[Result]

    @property
    def seeds(self) -> list[int]:
        return [result.seed for result in self.results]

    @property
    def config(self) -> dict[str, Any]:
        return self.results[0].config

    def values(self, metric: str) -> list[float]:
        """Of all seeds that have the metric."""
        found = [result.metrics.get(metric) for result in self.results]
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return mean_and_deviation(values)[0] if values else None

    @cached_property
    def heads(self) -> int | None:
        return self.results[0].summary.get("paths")

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Of the table, the heads, and the encoder with the score."""
        return self.results[0].summary.get("parameters", {})

    @cached_property
    def step_seconds(self) -> float | None:
        """Median time of a training step, over seeds."""
        found = [
            seconds for result in self.results if (seconds := _step_seconds(result.log)) is not None
        ]
        return median(found) if found else None

    @property
    def user_seconds(self) -> float | None:
        """Of the evaluation, for each user, loading included."""
        found = [result.metrics for result in self.results]
        each = [
            one["seconds"] / one["users"]
            for one in found
            if one.get("seconds") and one.get("users")
        ]
        return mean_and_deviation(each)[0] if each else None


@dataclass
class Section:
    """Rows that may be compared: one split of one data set.

    Attributes:
        data: None where it is no longer where the runs read it.
        missing: why it is not there.
        first: whether no other section is of this data set.
    """

    name: str
    split: str
    data: PreparedData | None
    rows: list[Row]
    missing: str = ""
    first: bool = True
    reference: Row = field(init=False)

    def __post_init__(self) -> None:
        self.reference = _plainest(self.rows)

    @property
    def horizon(self) -> int | None:
        """E, of the evaluation."""
        found: int | None = self.rows[0].results[0].metrics.get("horizon")
        return self.data.manifest.horizon if self.data else found

    @property
    def title(self) -> str:
        horizon = f", next {self.horizon} items" if self.horizon else ""
        return f"{self.name}, {self.split} split{horizon}"

    def kind(self, row: Row) -> str:
        """Of the row's line in a table."""
        return "reference" if row is self.reference else ""

    def plain_of(self, horizon: int) -> Row | None:
        """The model of one head that was trained for a horizon."""
        return next(
            (row for row in self.rows if row.variant.plain and row.variant.horizon == horizon), None
        )


def differing(rows: Sequence[Row], besides: Collection[str] = ("seed",)) -> list[str]:
    """Settings, besides some, that are not the same in all rows."""
    keys = dict.fromkeys(key for row in rows for key in row.config if key not in besides)
    return [
        key
        for key in keys
        if len({json.dumps(row.config.get(key), sort_keys=True) for row in rows}) > 1
    ]


def sections(results: Iterable[Result], reference: str | None) -> list[Section]:
    """Sections of data sets in the order of the results, the test split before the validation split.

    Raises:
        UserError: no row is called `reference`.
    """
    grouped: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.data_sha256, {}).setdefault(result.split, []).append(result)
    found = []
    for by_split in grouped.values():
        data, missing = _open(next(iter(by_split.values())))
        kinds = {prior.name: prior.kind for prior in data.manifest.priors} if data else {}
        for number, split in enumerate(sorted(by_split, key=_TEST_FIRST.index)):
            some = by_split[split]
            rows = [
                Row(label, Variant.of(each[0].config, kinds), each)
                for label, each in _rows(some).items()
            ]
            name = data.manifest.name if data else f"data {some[0].data_sha256[:8]}"
            found.append(Section(name, split, data, rows, missing, first=number == 0))
    if reference is not None:
        _choose(found, reference)
    return found


def _choose(found: Sequence[Section], reference: str) -> None:
    labels = [row.label for section in found for row in section.rows]
    if reference not in labels:
        raise UserError(
            f"--reference: no row is called '{reference}': {nearest(reference, labels)}"
        )
    for section in found:
        section.reference = next(
            (row for row in section.rows if row.label == reference), section.reference
        )


def _rows(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Seeds by label; what differs in more than the seed is told apart by its folder."""
    by_label: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        same = {key: value for key, value in result.config.items() if key != "seed"}
        by_label.setdefault(result.label, {}).setdefault(
            json.dumps(same, sort_keys=True), []
        ).append(result)
    found: dict[str, list[Result]] = {}
    for label, alike in by_label.items():
        for some in alike.values():
            by_seed = {
                result.seed: result for result in some
            }  # a seed that stands twice counts once
            name = plain = labelled(label, _interests(some[0].config))
            if len(alike) > 1:
                name = f"{plain} ({some[0].source.name or some[0].source})"
                name = f"{plain} ({some[0].run.path})" if name in found else name
            found[name] = [by_seed[seed] for seed in sorted(by_seed)]
    return found


def _interests(config: Mapping[str, Any]) -> int | None:
    """K of a model of several interests.

    Args:
        config: by dotted key.
    """
    given = (("name", "baseline.name"), ("interests", "baseline.interests"))
    return interests_of(
        BaselineConfig(**{name: config[key] for name, key in given if key in config})
    )


def _plainest(rows: Sequence[Row]) -> Row:
    """One head, of the nearest horizon; the first row where there is none."""
    plain = [row for row in rows if row.variant.plain]
    return min(plain, key=lambda row: row.variant.horizon) if plain else rows[0]


def _open(results: Sequence[Result]) -> tuple[PreparedData | None, str]:
    """The data set, or None and why."""
    origin = results[0].run.origin()
    try:
        data = PreparedData(origin.path)
    except UserError as error:
        return None, str(error)
    states = [
        data.manifest.prepared_sha256,
        *(state["prepared_sha256"] for state in data.manifest.grown),
    ]
    if origin.content_sha256 not in states:
        return None, f"'{origin.path}' holds other data than these runs were trained on"
    if origin.content_sha256 != states[0]:
        log.warning("'%s' has grown since '%s' was trained", origin.path, results[0].run.path)
    return data, ""


def _step_seconds(lines: Sequence[dict[str, Any]]) -> float | None:
    """Median over the spans between lines of the log: those that hold an evaluation are the rare ones."""
    logged = [
        (line["step"], line["seconds"]) for line in lines if "loss" in line and "seconds" in line
    ]
    spans = [
        (after[1] - before[1]) / (after[0] - before[0])
        for before, after in pairwise(logged)
        if after[0] > before[0] and after[1] > before[1]
    ]
    return median(spans) if spans else None
