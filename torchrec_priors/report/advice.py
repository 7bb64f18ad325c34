"""What a reader is told first: which prior to turn on, for whom, and what it costs; in words made from the figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrec_priors.config import write_override
from torchrec_priors.experiment.statistics import LEVEL
from torchrec_priors.report import standing
from torchrec_priors.report.gains import Gain, Gains, sign
from torchrec_priors.report.page_table import seconds, signed
from torchrec_priors.report.sections import Row, Section, differing
from torchrec_priors.report.standing import NAMED


@dataclass(frozen=True)
class Prior:
    """What is said of one model.

    Attributes:
        verdict: "better", "worse", "some" (better for some users alone) or "open".
        facts: (of what, sentence).
    """

    label: str
    verdict: str
    headline: str
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Advice:
    """
    Attributes:
        summary: sentences.
        priors: best first.
    """

    summary: list[str]
    priors: list[Prior]


def advice(section: Section, gains: Mapping[str, Gains]) -> Advice:
    """For a section; without intervals it says why there is none."""
    base = section.reference
    rows = [row for row in section.rows if row.variant.ours and row is not base]
    if not rows:
        return Advice(["No run with priors is here, so there is nothing to turn on."], [])
    rows = [row for row in rows if row.label in gains]
    if not rows:
        why = section.missing or "the predictions of single users cannot be read"
        return Advice(
            [f"Whether a prior gains cannot be said, as there are no intervals: {why}."], []
        )
    rows.sort(key=lambda row: -gains[row.label].overall["ndcg@10"].mean)
    priors = [_prior(section, row, gains) for row in rows]
    return Advice(_summary(section, rows, gains, priors), priors)


def _summary(
    section: Section, rows: list[Row], gains: Mapping[str, Gains], priors: list[Prior]
) -> list[str]:
    base = section.reference
    verdicts = {prior.label: prior.verdict for prior in priors}
    eligible = [row for row in rows if not row.variant.control]
    better = [row for row in eligible if verdicts[row.label] == "better"]
    some = [row.label for row in eligible if verdicts[row.label] == "some"]
    worse = [row.label for row in eligible if verdicts[row.label] == "worse"]
    said = (
        _recommended(section, better, len(eligible), gains)
        if better
        else _nothing(section, eligible, gains)
    )
    if some:
        said.append(f"For some users or items alone, turn on {_listed(some)}: see below for which.")
    if worse:
        said.append(
            f"Leave off {_listed(worse)}: less accurate than “{base.label}” for all users together."
        )
    groups = sum(len(gains[row.label].groups()) for row in rows)
    pairs = sum(len(gains[row.label].over) for row in rows)
    said.append(
        f"Every statement is on the {section.split} split, against “{base.label}” where no other row is named, by "
        f"{LEVEL:.0%} intervals over users and seeds. {groups:,} groups and {pairs:,} pairs of rows were compared, of "
        f"which about {(groups + pairs) * (1 - LEVEL):.2g} would differ by chance; what holds for one small group "
        "alone wants another look."
    )
    if any(len(row.seeds) == 1 for row in section.rows if row is base or row.label in gains):
        said.append(
            "Some models have one seed, and one seed is one seed: what another training would have given is not in the "
            "intervals."
        )
    return said


def _recommended(
    section: Section, better: list[Row], among_priors: int, gains: Mapping[str, Gains]
) -> list[str]:
    """The best row and what to know before it is turned on; `better` has it first."""
    base = section.reference
    best = better[0]
    own = gains[best.label]
    gain = own.overall["ndcg@10"]
    before = base.mean("ndcg@10")
    whom = "for everyone"
    if any(sign(over.ndcg) < 0 for over in standing.without_priors(own)):
        whom = "if it is to be one of the priors: some of what has none is more accurate still"
    rises = ""
    if before:
        rises = f": ndcg@10 rises by {signed(gain)}, from {before:.4f} with “{base.label}” ({gain.mean / before:+.0%})"
    said = [f"Turn on “{best.label}” {whom}{rises}."]
    said += standing.what_heads_add(section, best, own)
    if others := standing.among(section, best, own):
        said.append(f"“{best.label}” {others}.")
    said += standing.over_controls(best, own)
    tied = [row for row in better[1:] if gains[row.label].overall["ndcg@10"].high >= gain.low]
    cheap = min([best, *tied], key=_cost)
    if cheap is not best:
        gain = gains[cheap.label].overall["ndcg@10"]
        said.append(f"Cheaper: “{cheap.label}” gains {signed(gain)} with {_sizes(cheap, base)}.")
    said += standing.re_ranked(section, best, gains)
    if among_priors > 1:
        said.append(
            f"“{best.label}” is the best of {among_priors} on this very split, which flatters it a little."
        )
    return said


def _nothing(section: Section, eligible: list[Row], gains: Mapping[str, Gains]) -> list[str]:
    base = section.reference
    said = [
        f"No prior among these runs gains ndcg@10 over “{base.label}” for all users at the {LEVEL:.0%} level: on this "
        "evidence there is no reason to turn one on for everyone. More users, seeds or steps could show one."
    ]
    said += [
        f"“{row.label}” gains recall@10 alone: {signed(gains[row.label].overall['recall@10'])}."
        for row in eligible
        if sign(gains[row.label].overall["ndcg@10"]) == 0
        and sign(gains[row.label].overall["recall@10"]) > 0
    ][:NAMED]
    others = [row.label for row in section.rows if not row.variant.kinds and row.label in gains]
    above = [label for label in others if sign(gains[label].overall["ndcg@10"]) > 0]
    if above:
        said.append(f"More accurate than “{base.label}”, without priors: {_listed(above)}.")
    return said


def _prior(section: Section, row: Row, by_label: Mapping[str, Gains]) -> Prior:
    base = section.reference
    gains = by_label[row.label]
    ndcg = gains.overall["ndcg@10"]
    entropy = gains.overall["entropy@10"]
    groups = gains.groups()
    rising = [gain for gain in groups if gain.sign > 0]
    falling = [gain for gain in groups if gain.sign < 0]
    newcomers = gains.newcomers
    if sign(ndcg):
        verdict = "better" if sign(ndcg) > 0 else "worse"
    else:
        for_some = len(rising) > max(len(falling), 1 + len(groups) * (1 - LEVEL) / 2)
        verdict = "some" if for_some or (newcomers is not None and newcomers.sign > 0) else "open"
    headline = {
        "better": "gains for all users together",
        "worse": "loses for all users together",
        "some": "gains for some users or items, in more groups than by chance, not for all together",
        "open": "not distinguishable from the reference row",
    }[verdict]
    recall = gains.overall["recall@10"]
    everyone = (
        f"ndcg@10 {signed(ndcg)}; recall@10 {signed(recall)}; entropy@10 {signed(entropy, 3)} bits"
    )
    facts = [("Everyone", everyone)]
    if (over := standing.over_one_head(section, row, gains)) is not None:
        keys = standing.besides_heads(row, over.row)
        why = f" together with what else differs: {', '.join(keys)}" if keys else ""
        facts.append(
            (f"Over “{over.row.label}”", f"ndcg@10 {signed(over.ndcg)}: what the heads add{why}")
        )
    if others := standing.among(section, row, gains):
        facts.append(("Without priors", others))
    facts += [("Control", said) for said in standing.over_controls(row, gains)]
    if newcomers is not None:
        facts.append(
            (f"New interest ({newcomers.users:,} users)", f"ndcg@10 {signed(newcomers.interval)}")
        )
    facts += [(f"By {prior}", _groups(some)) for prior, some in gains.user_groups.items()]
    if gains.item_groups:
        facts.append(("By items", _groups(gains.item_groups)))
    facts.append(("Costs", _costs(row, base)))
    facts.append(("Settings", _settings(row, base)))
    return Prior(row.label, verdict, headline, facts)


def _groups(gains: list[Gain]) -> str:
    rising = sorted((gain for gain in gains if gain.sign > 0), key=lambda gain: -gain.interval.mean)
    falling = sorted((gain for gain in gains if gain.sign < 0), key=lambda gain: gain.interval.mean)
    parts = []
    for verb, some in (("gain", rising), ("lose", falling)):
        if some:
            named = "; ".join(f"{gain.of} {signed(gain.interval)}" for gain in some[:NAMED])
            more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
            parts.append(f"{len(some)} of {len(gains)} {verb}: {named}{more}")
    return ". ".join(parts) or f"none of {len(gains)} groups can be told from the reference row"


def _costs(row: Row, base: Row) -> str:
    return (
        f"{_sizes(row, base)}; a training step {seconds(row.step_seconds)} ({seconds(base.step_seconds)}); "
        f"to evaluate a user {seconds(row.user_seconds)} ({seconds(base.user_seconds)}; "
        "in brackets the reference row's)"
    )


def _settings(row: Row, base: Row) -> str:
    """What to give to `train` to have the one and not the other."""
    keys = [key for key in differing([row, base]) if key in row.config]
    if not keys:
        return "those of the reference row"
    return f"where they are not the reference row's: {' '.join(write_override(key, row.config[key]) for key in keys)}"


def _sizes(row: Row, base: Row) -> str:
    heads = row.parameters.get("heads")
    before = sum(base.parameters.values())
    whole = sum(row.parameters.values())
    if heads is None or not before:
        return "parameters unknown"
    count = "1 head" if row.heads == 1 else f"{row.heads:,} heads" if row.heads else "heads"
    if not heads:
        return f"no parameters of heads ({whole - before:+,} in all)"
    more = whole - before
    return f"{count} of {heads:,} parameters ({more:+,} in all, {more / before:+.1%})"


def _cost(row: Row) -> tuple[float, int]:
    return row.step_seconds or 0.0, sum(row.parameters.values())


def _listed(labels: list[str]) -> str:
    return ", ".join(f"“{label}”" for label in labels)
