"""The main table: every model with its mean over seeds, what it gains over the reference row, and what it costs."""

from collections.abc import Mapping, Sequence

from torchrec_priors.experiment.per_user import COMPARED
from torchrec_priors.experiment.statistics import LEVEL, SEED
from torchrec_priors.report.gains import Gain, Gains, resamples, sign
from torchrec_priors.report.page_table import Line, Table, count, over_seeds, seconds, signed
from torchrec_priors.report.sections import Row, Section

_SHOWN = ("ndcg@10", "recall@10", "entropy@10", "coverage@10", "novelty@10", "new_interest/ndcg@10",
          "event_given/ndcg@10")  # fmt: skip
_TITLES = {
    "new_interest/ndcg@10": "ndcg@10, new interest",
    "event_given/ndcg@10": "ndcg@10, event given",
}


def means(section: Section) -> Table:
    """Means over seeds with standard deviations."""
    shown = [name for name in _SHOWN if any(row.values(name) for row in section.rows)]
    head = ["Model", "Seeds", *(_TITLES.get(name, name) for name in shown)]
    lines = [
        Line(
            [row.label, _seeds(row), *(over_seeds(row.values(name)) for name in shown)],
            section.kind(row),
        )
        for row in section.rows
    ]
    notes = [
        "Mean ± standard deviation over seeds (one value where there is one seed). Entropy and novelty in bits; "
        "“new interest”: users with a target in a category that they never had."
    ]
    return Table("means", "Means over seeds", head, lines, notes=notes)


def differences(section: Section, gains: Mapping[str, Gains], users: int) -> Table | None:
    """Differences to the reference row with their intervals; None where there are none."""
    if not gains:
        return None
    rest_on = {each.seeds for each in gains.values()}
    told = len(rest_on) > 1 or any(ours != theirs for ours, theirs in rest_on)
    head = ["Model", *COMPARED, "verdict on ndcg@10", *(["seeds"] if told else [])]
    lines = []
    for row in section.rows:
        if row.label in gains:
            found = gains[row.label].overall
            verdict = {1: "better", -1: "worse", 0: "not distinguishable"}[sign(found["ndcg@10"])]
            seeds = [_rests_on(*gains[row.label].seeds)] if told else []
            lines.append(
                Line([row.label, *(signed(found[name]) for name in COMPARED), verdict, *seeds])
            )
    notes = [
        f"Mean over {users:,} users and the seeds shared with the reference row, with {LEVEL:.0%} intervals: paired "
        f"bootstrap over users ({resamples(users):,} resamples, seed {SEED}) and seeds, whose part is Student's t of "
        "as many degrees of freedom as there are seeds, less one. “Better” and “worse”: the interval leaves out 0."
    ]
    single = [
        row.label for row in section.rows if row.label in gains and gains[row.label].of_one_seed
    ]
    if single:
        notes.append(
            f"One seed, so what another training would give is not in the interval: {', '.join(single)}."
        )
    return Table(
        "differences", f"Difference to “{section.reference.label}”", head, lines, notes=notes
    )


def costs(section: Section) -> Table:
    """Parameters and seconds."""
    head = ["Model", "heads", "parameters of heads", "per head", "share of all", "encoder and score", "item table",
            "training step", "training", "evaluation of a user"]  # fmt: skip
    lines = []
    for row in section.rows:
        sizes = row.parameters
        heads = sizes.get("heads")
        whole = sum(sizes.values())
        trained = [one for result in row.results if (one := result.training_seconds) is not None]
        lines.append(
            Line(
                [
                    row.label,
                    count(row.heads),
                    count(heads),
                    count(round(heads / row.heads)) if heads is not None and row.heads else "–",
                    f"{heads / whole:.2%}" if heads is not None and whole else "–",
                    count(sizes.get("encoder and score")),
                    count(sizes.get("table")),
                    seconds(row.step_seconds),
                    seconds(max(trained, default=None)),
                    seconds(row.user_seconds),
                ],
                section.kind(row),
            )
        )
    notes = [
        "Training step: median over the log. Training: to the last line of the log, all starts of a run together, "
        "evaluations included, the longest of the seeds. "
        "Evaluation: against the whole catalogue, with loading. Times depend on what else ran there: "
        "compare those of models that ran on the same machine under the same load."
    ]
    return Table("costs", "What each model costs", head, lines, notes=notes)


def groups(section: Section, gains: Mapping[str, Gains]) -> list[Table]:
    """Gains of the rows by group of users and by group of items, a table each."""
    if not gains:
        return []
    first = next(iter(gains.values()))
    found = []
    for prior, some in first.user_groups.items():
        columns = {label: each.user_groups.get(prior, []) for label, each in gains.items()}
        found.append(
            _of_groups(section, f"users-{prior}", f"Groups of users: {prior}", some, columns)
        )
    if first.item_groups:
        columns = {label: each.item_groups for label, each in gains.items()}
        found.append(
            _of_groups(section, "items", "Targets by group of items", first.item_groups, columns)
        )
    return found


def _of_groups(
    section: Section, key: str, title: str, some: list[Gain], columns: Mapping[str, list[Gain]]
) -> Table:
    head = ["Group", "users", section.reference.label, *columns]
    order = sorted(range(len(some)), key=lambda number: -some[number].users)
    lines = [
        Line(
            [
                some[n].of,
                f"{some[n].users:,}",
                f"{some[n].before:.4f}",
                *(signed(c[n].interval) for c in columns.values()),
            ]
        )
        for n in order
    ]
    wanted = len(some) * len(columns)
    notes = [
        f"ndcg@10 of the reference row, and each model's difference to it with {LEVEL:.0%} intervals over the users "
        f"of a group. Of {wanted} intervals about {wanted * (1 - LEVEL):.2g} would leave out 0 by chance alone."
    ]
    return Table(key, title, head, lines, notes=notes)


def _seeds(row: Row) -> str:
    return ", ".join(map(str, row.seeds))


def _rests_on(ours: Sequence[int], theirs: Sequence[int]) -> str:
    said = ", ".join(map(str, ours))
    return (
        said
        if ours == theirs
        else f"{said}; of the reference row {', '.join(map(str, theirs))}: none shared"
    )
