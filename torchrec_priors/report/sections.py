"""Sections of the page: the evaluations on one split of one data set, with a row for each label.

Lists that may contain items which the user had before are easier to fill with targets than lists of
new items. So evaluations with and without `evaluation.filter_seen` are sections of their own.
"""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

from torchrec_priors.baselines.baseline import interests_of, labelled
from torchrec_priors.data.histories import Split
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiments.statistics import mean_and_deviation
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.report.result import Result
from torchrec_priors.report.variant import Variant
from torchrec_priors.settings.baseline import BaselineConfig

log = logging.getLogger(__name__)

_TEST_FIRST: Sequence[Split] = ("test", "validation")


@dataclass
class Row:
    """One model, with the results of all its seeds."""

    label: str
    variant: Variant
    results: list[Result]

    @property
    def seeds(self) -> list[int]:
        return [result.seed for result in self.results]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the first seed."""
        return self.results[0].config

    @property
    def deterministic(self) -> bool:
        """Whether this is a plain baseline, whose result is the same for all seeds."""
        return bool(self.config["plain.name"])

    def values(self, metric: str) -> list[float]:
        """Returns a metric for every seed that has it."""
        values = [result.metrics.get(metric) for result in self.results]
        return [value for value in values if value is not None]

    def mean(self, metric: str) -> float | None:
        """Returns the mean of a metric over the seeds that have it; None if no seed has it."""
        return _mean(self.values(metric))

    @cached_property
    def heads(self) -> int | None:
        """The number of heads; None if the run did not record it."""
        return self.results[0].summary.get("paths")

    @cached_property
    def parameters(self) -> dict[str, int]:
        """The parameters of the table, of the heads, and of the encoder with the score."""
        return self.results[0].summary.get("parameters", {})

    @cached_property
    def step_seconds(self) -> float | None:
        """The median over seeds of the time of a training step."""
        times = [_step_seconds(result.log) for result in self.results]
        return _median([time for time in times if time is not None])

    @property
    def user_seconds(self) -> float | None:
        """The evaluation's time divided by the number of users; loading the data is included."""
        return _mean(
            [
                result.metrics["seconds"] / result.metrics["users"]
                for result in self.results
                if result.metrics.get("seconds") and result.metrics.get("users")
            ]
        )


@dataclass
class Section:
    """Rows that may be compared: one split of one data set, with or without items seen before.

    Attributes:
        data: the data set; None if it is no longer where the runs read it.
        missing: the reason why there is no data set; "" if there is one.
        first: whether this is the first section of these models, with which the page shows their
            curves and the advice.
        seen: what the title says about items that users had before; "" if all sections of the data
            set agree.
        reference: the row that the others are compared with.
    """

    name: str
    split: Split
    data: PreparedData | None
    rows: list[Row]
    missing: str = ""
    first: bool = True
    seen: str = ""
    reference: Row = field(init=False)

    def __post_init__(self) -> None:
        self.reference = _plainest(self.rows)

    @property
    def horizon(self) -> int | None:
        """E, the number of next items that are targets; None if it is unknown."""
        if self.data:
            return self.data.manifest.horizon
        noted: int | None = self.rows[0].results[0].metrics.get("horizon")
        return noted

    @property
    def title(self) -> str:
        """The heading of the section."""
        title = f"{self.name}, {self.split} split"
        if self.horizon:
            title += f", next {self.horizon} items"
        if self.seen:
            title += f", {self.seen}"
        return title

    def kind(self, row: Row) -> str:
        """Returns the kind of the row's line in a table; see `Line.kind`."""
        return "reference" if row is self.reference else ""

    def plain_of(self, horizon: int) -> Row | None:
        """Returns the one-head model that was trained with this horizon; None if there is none."""
        for row in self.rows:
            if row.variant.plain and row.variant.horizon == horizon:
                return row
        return None


def differing(rows: Sequence[Row], besides: Collection[str] = ("seed",)) -> list[str]:
    """Returns the settings that are not the same in all rows.

    Args:
        besides: settings that are not compared.
    """
    # Values may be lists, which cannot be in a set, so they are compared as text.
    keys = dict.fromkeys(key for row in rows for key in row.config if key not in besides)
    return [
        key
        for key in keys
        if len({json.dumps(row.config.get(key), sort_keys=True) for row in rows}) > 1
    ]


def sections(results: Iterable[Result], reference: str | None) -> list[Section]:
    """Makes sections in the order of the results, the test split of a data set before validation.

    Args:
        reference: the label of the row that the others are compared with; by default the plainest
            model.

    Raises:
        UserError: no row is called `reference`.
    """
    # Results are grouped by the content of their data: copies in several folders are the same data.
    of_data: dict[str, list[Result]] = {}
    for result in results:
        of_data.setdefault(result.data_sha256, []).append(result)
    made = [section for of_one in of_data.values() for section in _sections_of(of_one)]

    if reference is not None:
        _set_reference(made, reference)
    return made


def _sections_of(results: Sequence[Result]) -> Iterator[Section]:
    """Makes the sections of one data set."""
    data, missing = _open(results)
    name = f"data {results[0].data_sha256[:8]}"
    prior_kinds: dict[str, str] = {}
    if data:
        name = data.manifest.name
        prior_kinds = {prior.name: prior.kind for prior in data.manifest.priors}

    # The first key says whether items that users had before are left out of their lists.
    grouped: dict[bool, dict[Split, list[Result]]] = {}
    for result in results:
        filters = bool(result.config["evaluation.filter_seen"])
        grouped.setdefault(filters, {}).setdefault(result.split, []).append(result)

    for filters, by_split in grouped.items():
        seen = ""
        if len(grouped) > 1:
            seen = "new items only" if filters else "items seen before, too"
        for number, split in enumerate(sorted(by_split, key=_TEST_FIRST.index)):
            rows = [
                Row(label, Variant.of(seeds[0].config, prior_kinds), seeds)
                for label, seeds in _rows(by_split[split]).items()
            ]
            yield Section(name, split, data, rows, missing, first=number == 0, seen=seen)


def _set_reference(sections: Sequence[Section], reference: str) -> None:
    """Sets the reference row in every section that has a row with this label."""
    labels = [row.label for section in sections for row in section.rows]
    if reference not in labels:
        raise UserError(
            f"--reference: no row is called '{reference}': {nearest(reference, labels)}"
        )
    for section in sections:
        matches = (row for row in section.rows if row.label == reference)
        section.reference = next(matches, section.reference)


def _rows(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Groups results into rows: label -> the results of its seeds.

    If one label has several configurations, each of them is a row, and the folder is added to its
    label.
    """
    by_label: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        # Results with the same label and configuration are the seeds of one row.
        without_seed = {key: value for key, value in result.config.items() if key != "seed"}
        config = json.dumps(without_seed, sort_keys=True)
        by_label.setdefault(result.label, {}).setdefault(config, []).append(result)

    rows: dict[str, list[Result]] = {}
    for label, by_config in by_label.items():
        for row_results in by_config.values():
            first = row_results[0]
            name = plain = labelled(label, _interests(first.config))
            if len(by_config) > 1:
                name = f"{plain} ({first.source.name or first.source})"
                if name in rows:
                    name = f"{plain} ({first.run.path})"

            # A seed that was evaluated twice counts once.
            by_seed = {result.seed: result for result in row_results}
            rows[name] = [by_seed[seed] for seed in sorted(by_seed)]
    return rows


def _interests(config: Mapping[str, Any]) -> int | None:
    """Returns K, the number of interests, of a baseline model that has several.

    Args:
        config: dotted key -> value.
    """
    keys = (("name", "baseline.name"), ("interests", "baseline.interests"))
    settings = {name: config[key] for name, key in keys if key in config}
    return interests_of(BaselineConfig(**settings))


def _plainest(rows: Sequence[Row]) -> Row:
    """Returns the one-head model with the shortest horizon; the first row if there is none."""
    plain = [row for row in rows if row.variant.plain]
    return min(plain, key=lambda row: row.variant.horizon, default=rows[0])


def _open(results: Sequence[Result]) -> tuple[PreparedData | None, str]:
    """Opens the data set of some results; returns None and the reason if it cannot be used."""
    origin = results[0].run.origin()
    # The page is written even without the data set, but has no intervals, examples or data card.
    try:
        data = PreparedData(origin.path)
    except UserError as error:
        return None, str(error)

    # Data may have been appended since the runs were trained.
    grown = [state["prepared_sha256"] for state in data.manifest.grown]
    states = [data.manifest.prepared_sha256, *grown]
    if origin.content_sha256 not in states:
        return None, f"'{origin.path}' holds other data than these runs were trained on"
    if origin.content_sha256 != states[0]:
        log.warning("'%s' has grown since '%s' was trained", origin.path, results[0].run.path)
    return data, ""


def _step_seconds(lines: Sequence[dict[str, Any]]) -> float | None:
    """Returns the median time of a step, over the spans between lines of the log.

    A few spans contain an evaluation and are longer: the median ignores them.
    """
    logged = [
        (line["step"], line["seconds"]) for line in lines if "loss" in line and "seconds" in line
    ]
    spans = []
    for (step, time), (next_step, next_time) in pairwise(logged):
        # Every start of a run counts its seconds from 0, so the time may fall after a restart.
        if next_step > step and next_time > time:
            spans.append((next_time - time) / (next_step - step))
    return _median(spans)


def _mean(values: Sequence[float]) -> float | None:
    return mean_and_deviation(values)[0] if values else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
