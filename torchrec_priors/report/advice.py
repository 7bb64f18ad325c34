"""Advice in sentences, written from the figures: which prior to turn on, for whom, at what cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrec_priors.config import write_override
from torchrec_priors.experiments.statistics import LEVEL
from torchrec_priors.report import standing
from torchrec_priors.report.diversity import free_diversity
from torchrec_priors.report.gains import Gain, Gains, sign
from torchrec_priors.report.page_table import seconds, signed
from torchrec_priors.report.sections import Row, Section, differing
from torchrec_priors.report.standing import NAMED

_HEADLINES = {
    "better": "gains for all users together",
    "worse": "loses for all users together",
    "some": (
        "gains for some users or items (in more groups than chance explains), but not for all users"
        " together"
    ),
    "open": "not distinguishable from the reference row",
}


@dataclass(frozen=True)
class Prior:
    """The advice on one model with priors.

    Attributes:
        verdict: "better", "worse", "some" (better for only some users) or "open".
        headline: the verdict in words.
        facts: pairs of a title and a sentence.
    """

    label: str
    verdict: str
    headline: str
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Advice:
    """The advice on all models of a section.

    Attributes:
        summary: sentences about all models together.
        priors: the advice on each model with priors, the best model first.
        recommended: the model that the summary recommends; the reference row if no prior gains.
    """

    summary: list[str]
    priors: list[Prior]
    recommended: Row


def advice(section: Section, gains: Mapping[str, Gains]) -> Advice:
    """Writes the advice on a section. Without intervals, the advice says why there are none."""
    base = section.reference
    rows = [row for row in section.rows if row.variant.ours and row is not base]
    if not rows:
        return Advice(
            ["None of these runs uses a prior, so there is nothing to turn on."], [], base
        )

    rows = [row for row in rows if row.label in gains]
    if not rows:
        why = section.missing or "the predictions of single users cannot be read"
        text = f"There are no intervals, so the page cannot say whether a prior gains: {why}."
        return Advice([text], [], base)

    # The best model comes first, because the summary is about it.
    rows.sort(key=lambda row: -gains[row.label].overall["ndcg@10"].mean)
    priors = [_prior(section, row, gains) for row in rows]
    verdicts = {prior.label: prior.verdict for prior in priors}
    better = [row for row in rows if verdicts[row.label] == "better" and not row.variant.control]
    summary = _summary(section, rows, gains, priors)
    return Advice(summary, priors, better[0] if better else base)


def _summary(
    section: Section, rows: list[Row], gains: Mapping[str, Gains], priors: list[Prior]
) -> list[str]:
    """Writes the sentences about all rows together: which to turn on, and how sure that is."""
    base = section.reference

    # Controls are only there for the comparison and are never recommended.
    eligible = [row for row in rows if not row.variant.control]
    by_verdict: dict[str, list[Row]] = {verdict: [] for verdict in _HEADLINES}
    verdicts = {prior.label: prior.verdict for prior in priors}
    for row in eligible:
        by_verdict[verdicts[row.label]].append(row)

    if by_verdict["better"]:
        sentences = _recommended(section, by_verdict["better"], len(eligible), gains)
    else:
        sentences = _nothing_gains(section, eligible, gains)
    sentences += free_diversity(section, gains)
    if by_verdict["some"]:
        labels = _listed(by_verdict["some"])
        sentences.append(f"Only for some users or items, turn on {labels}: see below for which.")
    if by_verdict["worse"]:
        labels = _listed(by_verdict["worse"])
        sentences.append(
            f"Leave off {labels}: less accurate than “{base.label}” for all users together."
        )

    groups = sum(len(gains[row.label].groups()) for row in rows)
    pairs = sum(len(gains[row.label].over) for row in rows)
    by_chance = (groups + pairs) * (1 - LEVEL)
    sentences.append(
        f"All statements are for the {section.split} split. They compare with “{base.label}” "
        f"unless they name another row, by {LEVEL:.0%} intervals over users and seeds. "
        f"{groups:,} groups and "
        f"{pairs:,} pairs of rows were compared, of which about {by_chance:.2g} would differ by "
        "chance: check a result again if it holds for only one small group."
    )
    compared = [row for row in section.rows if row is base or row.label in gains]
    if any(len(row.seeds) == 1 and not row.deterministic for row in compared):
        sentences.append(
            "Some models have only one seed: their intervals do not cover what another training "
            "would have given."
        )
    return sentences


def _recommended(
    section: Section, better: list[Row], number_of_priors: int, gains: Mapping[str, Gains]
) -> list[str]:
    """Writes the sentences about the best row.

    Args:
        better: the rows that are better than the reference row, the best first.
        number_of_priors: the number of rows from which the best one was chosen.
    """
    base = section.reference
    best = better[0]
    of_best = gains[best.label]
    gain = of_best.overall["ndcg@10"]

    whom = "for everyone"
    # A negative difference from a row without priors is a gain of that row.
    if any(sign(over.ndcg) < 0 for over in standing.without_priors(of_best)):
        whom = "if you want to use a prior: some models without priors are even more accurate"
    rises = ""
    before = base.mean("ndcg@10")
    if before:
        rises = (
            f": ndcg@10 rises by {signed(gain)}, from {before:.4f} with “{base.label}” "
            f"({gain.mean / before:+.0%})"
        )
    sentences = [f"Turn on “{best.label}” {whom}{rises}."]

    sentences += standing.what_heads_add(section, best, of_best)
    among = standing.among(section, best, of_best)
    if among:
        sentences.append(f"“{best.label}” {among}.")
    sentences += standing.over_controls(best, of_best)

    # A row may be as good as the best one if their intervals overlap.
    tied = [row for row in better[1:] if gains[row.label].overall["ndcg@10"].high >= gain.low]
    smaller = [row for row in tied if 0 < _parameters(row) < _parameters(best)]
    if smaller:
        cheapest = min(smaller, key=_parameters)
        gain = gains[cheapest.label].overall["ndcg@10"]
        sizes = _sizes(cheapest, base)
        sentences.append(f"Cheaper: “{cheapest.label}” gains {signed(gain)} with {sizes}.")

    sentences += standing.re_ranked(section, best, gains)
    if number_of_priors > 1:
        sentences.append(
            f"“{best.label}” was chosen as the best of {number_of_priors} on this split, so its "
            "gain is slightly overestimated."
        )
    return sentences


def _nothing_gains(section: Section, eligible: list[Row], gains: Mapping[str, Gains]) -> list[str]:
    """Writes the sentences for the case that no prior is better than the reference row."""
    base = section.reference
    sentences = [
        f"No prior among these runs gains ndcg@10 over “{base.label}” for all users at the "
        f"{LEVEL:.0%} level: on this evidence there is no reason to turn one on for everyone. With "
        "more users, seeds or steps, a gain might show."
    ]

    # A gain in recall is worth a sentence only if ndcg does not fall.
    in_recall = []
    for row in eligible:
        overall = gains[row.label].overall
        if sign(overall["ndcg@10"]) == 0 and sign(overall["recall@10"]) > 0:
            recall = signed(overall["recall@10"])
            in_recall.append(f"“{row.label}” gains only in recall@10: {recall}.")
    sentences += in_recall[:NAMED]

    # Models without priors may be an alternative.
    above = [
        row
        for row in section.rows
        if not row.variant.kinds
        and row.label in gains
        and sign(gains[row.label].overall["ndcg@10"]) > 0
    ]
    if above:
        sentences.append(f"More accurate than “{base.label}”, without priors: {_listed(above)}.")
    return sentences


def _prior(section: Section, row: Row, by_label: Mapping[str, Gains]) -> Prior:
    """Writes the verdict on one row, and the facts behind the verdict."""
    base = section.reference
    gains = by_label[row.label]
    verdict = _verdict(gains)

    # Facts go from all users to single groups, and end with costs and settings.
    ndcg = signed(gains.overall["ndcg@10"])
    recall = signed(gains.overall["recall@10"])
    entropy = signed(gains.overall["entropy@10"], 3)
    facts = [("Everyone", f"ndcg@10 {ndcg}; recall@10 {recall}; entropy@10 {entropy} bits")]

    over = standing.over_one_head(section, row, gains)
    if over is not None:
        fact = f"ndcg@10 {signed(over.ndcg)}: the effect of the heads"
        keys = standing.besides_heads(row, over.row)
        if keys:
            fact += f" and of other settings that differ: {', '.join(keys)}"
        facts.append((f"Over “{over.row.label}”", fact))
    among = standing.among(section, row, gains)
    if among:
        facts.append(("Without priors", among))
    facts += [("Control", sentence) for sentence in standing.over_controls(row, gains)]

    newcomers = gains.newcomers
    if newcomers is not None:
        title = f"New interest ({newcomers.users:,} users)"
        facts.append((title, f"ndcg@10 {signed(newcomers.interval)}"))
    facts += [(f"By {prior}", _groups(groups)) for prior, groups in gains.user_groups.items()]
    if gains.item_groups:
        facts.append(("By items", _groups(gains.item_groups)))

    facts.append(("Costs", _costs(row, base)))
    facts.append(("Settings", _settings(row, base)))
    return Prior(row.label, verdict, _HEADLINES[verdict], facts)


def _verdict(gains: Gains) -> str:
    """Returns the verdict on a row, a key of `_HEADLINES`."""
    overall = sign(gains.overall["ndcg@10"])
    if overall > 0:
        return "better"
    if overall < 0:
        return "worse"

    groups = gains.groups()
    rising = sum(gain.sign > 0 for gain in groups)
    falling = sum(gain.sign < 0 for gain in groups)
    # About this number of groups would rise by chance; one more is not a sign of a gain either.
    by_chance = 1 + len(groups) * (1 - LEVEL) / 2
    if rising > max(falling, by_chance):
        return "some"
    if gains.newcomers is not None and gains.newcomers.sign > 0:
        return "some"
    return "open"


def _groups(gains: list[Gain]) -> str:
    """Counts the groups that gain and those that lose, and names the most different ones."""
    rising = sorted((gain for gain in gains if gain.sign > 0), key=lambda gain: -gain.interval.mean)
    falling = sorted((gain for gain in gains if gain.sign < 0), key=lambda gain: gain.interval.mean)

    parts = []
    for verb, groups in (("gain", rising), ("lose", falling)):
        if groups:
            named = "; ".join(f"{gain.of} {signed(gain.interval)}" for gain in groups[:NAMED])
            if len(groups) > NAMED:
                named += f" and {len(groups) - NAMED} more"
            parts.append(f"{len(groups)} of {len(gains)} {verb}: {named}")
    return ". ".join(parts) or f"none of {len(gains)} groups differs from the reference row"


def _costs(row: Row, base: Row) -> str:
    """Writes the parameters and times of a row, with those of the reference row in brackets."""
    return (
        f"{_sizes(row, base)}; a training step {seconds(row.step_seconds)} "
        f"({seconds(base.step_seconds)}); evaluating a user takes {seconds(row.user_seconds)} "
        f"({seconds(base.user_seconds)}; the reference row's values are in brackets)"
    )


def _settings(row: Row, base: Row) -> str:
    """Writes the settings in which a row differs from the reference row, as options of `train`."""
    keys = [key for key in differing([row, base]) if key in row.config]
    if not keys:
        return "those of the reference row"
    overrides = " ".join(write_override(key, row.config[key]) for key in keys)
    return f"different from the reference row: {overrides}"


def _sizes(row: Row, base: Row) -> str:
    """Writes the parameters of the heads, and how many more the whole model has than `base`."""
    heads = row.parameters.get("heads")
    before = sum(base.parameters.values())
    more = sum(row.parameters.values()) - before
    if heads is None or not before:
        return "parameters unknown"
    if not heads:
        return f"no head parameters (the model: {more:+,})"

    number = "heads"
    if row.heads:
        number = "1 head" if row.heads == 1 else f"{row.heads:,} heads"
    return f"{number}, {heads:,} parameters (the model: {more:+,}, {more / before:+.1%})"


def _parameters(row: Row) -> int:
    """Returns the number of parameters of a model; 0 if the run did not record it.

    Models are compared by it, as the time of a step also depends on what else the machine does.
    """
    return sum(row.parameters.values())


def _listed(rows: list[Row]) -> str:
    return ", ".join(f"“{row.label}”" for row in rows)
