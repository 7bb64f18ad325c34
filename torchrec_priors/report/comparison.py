"""The main tables: means over seeds, gains over the reference row, and costs of every model."""

from collections.abc import Mapping, Sequence

from torchrec_priors.experiments.per_user import COMPARED
from torchrec_priors.experiments.statistics import LEVEL, SEED
from torchrec_priors.report.gains import Gain, Gains, resamples, sign
from torchrec_priors.report.page_table import Line, Table, count, over_seeds, seconds, signed
from torchrec_priors.report.sections import Row, Section

# Metrics in the table of means. A metric that no row has is left out.
_SHOWN = (
    "ndcg@10",
    "recall@10",
    "entropy@10",
    "coverage@10",
    "novelty@10",
    "new_interest/ndcg@10",
    "event_given/ndcg@10",
)
_TITLES = {
    "new_interest/ndcg@10": "ndcg@10, new interest",
    "event_given/ndcg@10": "ndcg@10, event given",
}
_VERDICTS = {1: "better", -1: "worse", 0: "not distinguishable"}


def means(section: Section) -> Table:
    """Makes the table of means over seeds, with standard deviations."""
    shown = [name for name in _SHOWN if any(row.values(name) for row in section.rows)]
    head = ["Model", *(_TITLES.get(name, name) for name in shown), "trained with"]

    lines = []
    for row in _best_first(section.rows):
        values = [over_seeds(row.values(name)) for name in shown]
        seeds = "no seed (deterministic)" if row.deterministic else _seeds(row.seeds)
        lines.append(Line([row.label, *values, seeds], _kind(section, row)))

    notes = [
        "The most accurate model is first. Entropy and novelty in bits; “new interest”: users with "
        "a target in a category that they never had."
    ]
    title = "Results"
    if any(len(row.seeds) > 1 for row in section.rows):
        title = "Means over seeds"
        notes.append("Mean ± standard deviation over seeds (only the value if there is one seed).")
    return Table("means", title, head, lines, notes=notes)


def differences(section: Section, gains: Mapping[str, Gains], users: int) -> Table | None:
    """Makes the table of differences from the reference row; None if there are no gains."""
    if not gains:
        return None

    # There is a column of seeds only if the rows do not all use the same seeds.
    seeds = {gain.seeds for gain in gains.values()}
    shows_seeds = len(seeds) > 1 or any(ours != theirs for ours, theirs in seeds)
    head = ["Model", *COMPARED]
    head.insert(2, "verdict on ndcg@10")
    if shows_seeds:
        head.append("seeds")

    lines = []
    for row in _best_first(section.rows):
        if row.label not in gains:
            continue
        overall = gains[row.label].overall
        cells = [row.label, *(signed(overall[name]) for name in COMPARED)]
        cells.insert(2, _VERDICTS[sign(overall["ndcg@10"])])
        if shows_seeds:
            cells.append(_seeds_used(*gains[row.label].seeds))
        lines.append(Line(cells, _kind(section, row)))

    notes = [
        f"Mean over {users:,} users and the seeds shared with the reference row, with {LEVEL:.0%} "
        f"intervals: paired bootstrap over users ({resamples(users):,} resamples, seed {SEED}) and "
        "seeds. The part of the seeds is drawn from Student's t, with one degree of freedom less "
        "than there are seeds. “Better” and “worse”: the interval excludes 0."
    ]
    one_seed = [
        row.label for row in section.rows if row.label in gains and gains[row.label].of_one_seed
    ]
    if one_seed:
        notes.append(
            "Only one seed, so the interval does not cover what another training would give: "
            f"{', '.join(one_seed)}."
        )
    title = f"Difference from “{section.reference.label}”"
    return Table("differences", title, head, lines, notes=notes)


def costs(section: Section) -> Table:
    """Makes the table of every model's parameters and times."""
    head = [
        "Model",
        "heads",
        "parameters of heads",
        "per head",
        "share of all",
        "encoder and score",
        "item table",
        "training step",
        "training",
        "evaluation of a user",
    ]

    lines = [Line(_cost_cells(row), _kind(section, row)) for row in _best_first(section.rows)]
    notes = [
        "Training step: median over the log. Training: to the last line of the log, all starts of "
        "a run together, evaluations included, the longest of the seeds. Evaluation: against the "
        "whole catalogue, with loading. Times depend on the load of the machine: compare only "
        "models that ran on the same machine under the same load."
    ]
    return Table("costs", "What each model costs", head, lines, notes=notes)


def _cost_cells(row: Row) -> list[str]:
    """Writes the cells of a row in the table of costs."""
    sizes = row.parameters
    heads = sizes.get("heads")
    whole = sum(sizes.values())
    per_head = None
    if heads is not None and row.heads:
        per_head = round(heads / row.heads)
    share = "–"
    if heads is not None and whole:
        share = f"{heads / whole:.2%}"

    # If all seeds are trained at the same time, all are done when the longest training ends.
    trained = [result.training_seconds for result in row.results]
    longest = max((time for time in trained if time is not None), default=None)
    return [
        row.label,
        count(row.heads),
        count(heads),
        count(per_head),
        share,
        count(sizes.get("encoder and score")),
        count(sizes.get("table")),
        seconds(row.step_seconds),
        seconds(longest),
        seconds(row.user_seconds),
    ]


def groups(section: Section, gains: Mapping[str, Gains]) -> list[Table]:
    """Makes tables of the gains: one for each prior of users, and one for groups of items."""
    if not gains:
        return []
    # All models are compared on the same users, so they have the same groups.
    first = next(iter(gains.values()))

    tables = []
    for prior, of_first in first.user_groups.items():
        columns = {label: gain.user_groups.get(prior, []) for label, gain in gains.items()}
        title = f"Groups of users: {prior}"
        tables.append(_by_group(section, f"users-{prior}", title, of_first, columns))
    if first.item_groups:
        columns = {label: gain.item_groups for label, gain in gains.items()}
        title = "Targets by group of items"
        tables.append(_by_group(section, "items", title, first.item_groups, columns))
    return tables


def _by_group(
    section: Section,
    key: str,
    title: str,
    groups: list[Gain],
    columns: Mapping[str, list[Gain]],
) -> Table:
    """Makes a table of gains by group, the largest group first.

    Args:
        groups: the gains of any one model. Names, sizes and the reference row's values are taken
            from them.
        columns: label of a model -> its gains, in the same groups.
    """
    head = ["Group", "users", section.reference.label, *columns]
    lines = []
    for number in sorted(range(len(groups)), key=lambda number: -groups[number].users):
        group = groups[number]
        intervals = [signed(column[number].interval) for column in columns.values()]
        lines.append(Line([group.of, f"{group.users:,}", f"{group.before:.4f}", *intervals]))

    number_of_intervals = len(groups) * len(columns)
    by_chance = number_of_intervals * (1 - LEVEL)
    notes = [
        f"ndcg@10 of the reference row, and each model's difference from it with {LEVEL:.0%} "
        f"intervals over the users of a group. Of {number_of_intervals} intervals about "
        f"{by_chance:.2g} would exclude 0 by chance."
    ]
    return Table(key, title, head, lines, notes=notes)


def _seeds_used(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Writes the seeds that a difference uses."""
    if ours == theirs:
        return _seeds(ours)
    return f"{_seeds(ours)}; of the reference row {_seeds(theirs)}: none shared"


def _seeds(numbers: Sequence[int]) -> str:
    """Writes seeds.

    >>> _seeds([0]), _seeds([0, 1])
    ('seed 0', 'seeds 0, 1')
    """
    plural = "s" if len(numbers) != 1 else ""
    return f"seed{plural} {', '.join(map(str, numbers))}"


def _best_first(rows: Sequence[Row]) -> list[Row]:
    """Returns rows in the order of their ndcg@10; rows without it are last."""
    return sorted(rows, key=lambda row: -(row.mean("ndcg@10") or 0.0))


def _kind(section: Section, row: Row) -> str:
    """Returns the kind of the row's line (see `Line.kind`)."""
    kinds = [section.kind(row)]
    # A control, whose groups are drawn at random, is never what anybody should use.
    usable = [other for other in section.rows if not other.variant.control]
    if usable and row is _best_first(usable)[0]:
        kinds.append("winner")
    return " ".join(filter(None, kinds))
