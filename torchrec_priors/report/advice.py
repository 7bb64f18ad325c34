"""What a reader is told first: which prior to turn on, for whom, and what it costs; in words made from the figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchrec_priors.config import write_override
from torchrec_priors.experiment.statistics import LEVEL
from torchrec_priors.report.gains import Gain, Gains, Over, sign
from torchrec_priors.report.sections import Row, Section, differing
from torchrec_priors.report.table import seconds, signed

_NAMED = 4  # groups by name, in a sentence


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
    base = section.baseline
    rows = [row for row in section.rows if row.variant.ours and row is not base]
    if not rows:
        return Advice(["No run with priors is here, so there is nothing to turn on."], [])
    rows = [row for row in rows if row.label in gains]
    if not rows:
        why = section.missing or "the predictions of single users cannot be read"
        return Advice([f"Whether a prior gains cannot be said, as there are no intervals: {why}."], [])
    rows.sort(key=lambda row: -gains[row.label].overall["ndcg@10"].mean)
    priors = [_prior(row, base, gains[row.label]) for row in rows]
    return Advice(_summary(section, rows, gains, priors), priors)


def _summary(section: Section, rows: list[Row], gains: Mapping[str, Gains], priors: list[Prior]) -> list[str]:
    base = section.baseline
    better = [row for row, prior in zip(rows, priors, strict=True) if prior.verdict == "better"]
    some = [prior.label for prior in priors if prior.verdict == "some"]
    worse = [prior.label for prior in priors if prior.verdict == "worse"]
    said = []
    if better:
        said += _recommended(section, better, gains)
    else:
        said.append(
            f"No prior among these runs gains over “{base.label}” for all users at the {LEVEL:.0%} level: on this "
            "evidence there is no reason to turn one on for everyone. More users, seeds or steps could show one."
        )
    if some:
        said.append(f"For some users or items alone, turn on {_listed(some)}: see below for which.")
    if worse:
        said.append(f"Leave off {_listed(worse)}: less accurate than “{base.label}” for all users together.")
    compared = sum(len(gains[row.label].groups()) for row in rows)
    said.append(
        f"Every statement is on the {section.split} split, against “{base.label}”, by {LEVEL:.0%} intervals over "
        f"users. {compared:,} groups were compared, of which about {compared * (1 - LEVEL):.2g} would differ by "
        "chance; what holds for one small group alone wants another look."
    )
    if min(len(row.seeds) for row in [base, *rows]) == 1:
        said.append("Some models have one seed: what another training would have given is not in the intervals.")
    return said


def _recommended(section: Section, better: list[Row], gains: Mapping[str, Gains]) -> list[str]:
    """The best row and what to know before it is turned on; `better` has it first."""
    base, best = section.baseline, better[0]
    gain, before = gains[best.label].overall["ndcg@10"], base.mean("ndcg@10")
    rises = ""
    if before:
        rises = f": ndcg@10 rises by {signed(gain)}, from {before:.4f} with “{base.label}” ({gain.mean / before:+.0%})"
    said = [f"Turn on “{best.label}” for everyone{rises}."]
    if (own := gains[best.label].of_heads) is not None and sign(own.ndcg) <= 0:
        said.append(
            f"That is the longer horizon's doing: over “{own.row.label}”, one head with the same horizon, its heads "
            f"add {signed(own.ndcg)}, which cannot be told from none."
        )
    if rivals := gains[best.label].of_rivals:
        said.append(f"“{best.label}” {_against(rivals)}.")
    tied = [row for row in better[1:] if gains[row.label].overall["ndcg@10"].high >= gain.low]
    cheap = min([best, *tied], key=_cost)
    if cheap is not best:
        gain = gains[cheap.label].overall["ndcg@10"]
        said.append(f"Cheaper: “{cheap.label}” gains {signed(gain)} with {_sizes(cheap, base)}.")
    return said + _more_diverse(section, best, gains)


def _prior(row: Row, base: Row, gains: Gains) -> Prior:
    ndcg, entropy = gains.overall["ndcg@10"], gains.overall["entropy@10"]
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
        "open": "not distinguishable from the baseline",
    }[verdict]
    facts = [("Everyone", f"ndcg@10 {signed(ndcg)}; entropy@10 {signed(entropy, 3)} bits")]
    if gains.of_heads is not None:
        own = gains.of_heads
        besides = [key for key in differing([row, own.row]) if not key.startswith("priors.")]
        why = f" together with what else differs: {', '.join(besides)}" if besides else ""
        facts.append((f"Over “{own.row.label}”", f"ndcg@10 {signed(own.ndcg)}: what the heads add{why}"))
    if newcomers is not None:
        facts.append((f"New interest ({newcomers.users:,} users)", f"ndcg@10 {signed(newcomers.interval)}"))
    if gains.of_rivals:
        facts.append(("Against rivals", f"{_against(gains.of_rivals)}"))
    facts += [(f"By {prior}", _groups(some)) for prior, some in gains.user_groups.items()]
    if gains.item_groups:
        facts.append(("By items", _groups(gains.item_groups)))
    facts.append(("Costs", _costs(row, base)))
    facts.append(("Settings", _settings(row, base)))
    return Prior(row.label, verdict, headline, facts)


def _against(rivals: Sequence[Over]) -> str:
    """Where a model stands among rivals, from the most accurate of them down."""
    by_sign: dict[int, list[Over]] = {1: [], 0: [], -1: []}
    for over in sorted(rivals, key=lambda over: over.ndcg.mean):
        by_sign[sign(over.ndcg)].append(over)
    above, level, below = by_sign[1], by_sign[0], by_sign[-1]
    parts = []
    if above:
        whom = f"all {len(rivals)} rivals" if len(above) == len(rivals) else f"{len(above)} of {len(rivals)} rivals"
        nearest = f"“{above[0].row.label}” ({_gains(above[0])})"
        parts.append(f"is above {nearest}" if len(rivals) == 1 else f"is above {whom}, the nearest of them {nearest}")
    if level:
        parts.append(f"cannot be told from {', '.join(f'“{one.row.label}” ({_gains(one)})' for one in level)}")
    if below:
        parts.append(f"is below {', '.join(f'“{one.row.label}” ({_gains(one)})' for one in below)}")
    return "; ".join(parts)


def _gains(over: Over) -> str:
    return f"ndcg@10 {signed(over.ndcg)}, entropy@10 {signed(over.entropy, 3)}"


def _more_diverse(section: Section, best: Row, gains: Mapping[str, Gains]) -> list[str]:
    """What to turn on besides where lists are to be more diverse, at no loss of accuracy to the baseline."""
    reached = gains[best.label].overall["entropy@10"].high
    rows = [row for row in section.rows if row.variant.adjusted and row.label in gains]
    rows = [row for row in rows if sign(gains[row.label].overall["ndcg@10"]) >= 0]
    row = max(rows, key=lambda row: gains[row.label].overall["entropy@10"].low, default=None)
    if row is None or gains[row.label].overall["entropy@10"].low <= reached:
        return []
    found = gains[row.label].overall
    return [
        f"More diverse at no loss: “{row.label}” has {signed(found['entropy@10'], 3)} bits of entropy@10 and "
        f"{signed(found['ndcg@10'])} of ndcg@10, both over “{section.baseline.label}”."
    ]


def _groups(gains: list[Gain]) -> str:
    rising = sorted((gain for gain in gains if gain.sign > 0), key=lambda gain: -gain.interval.mean)
    falling = sorted((gain for gain in gains if gain.sign < 0), key=lambda gain: gain.interval.mean)
    parts = []
    for verb, some in (("gain", rising), ("lose", falling)):
        if some:
            named = "; ".join(f"{gain.of} {signed(gain.interval)}" for gain in some[:_NAMED])
            more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            parts.append(f"{len(some)} of {len(gains)} {verb}: {named}{more}")
    return ". ".join(parts) or f"none of {len(gains)} groups can be told from the baseline"


def _costs(row: Row, base: Row) -> str:
    return (
        f"{_sizes(row, base)}; a training step {seconds(row.step_seconds)} ({seconds(base.step_seconds)}); "
        f"to evaluate a user {seconds(row.user_seconds)} ({seconds(base.user_seconds)}; in brackets the baseline's)"
    )


def _settings(row: Row, base: Row) -> str:
    """What to give to `train` to have the one and not the other."""
    keys = [key for key in differing([row, base]) if key in row.config]
    if not keys:
        return "those of the baseline"
    return f"where they are not the baseline's: {' '.join(write_override(key, row.config[key]) for key in keys)}"


def _sizes(row: Row, base: Row) -> str:
    heads, before, whole = row.parameters.get("heads"), sum(base.parameters.values()), sum(row.parameters.values())
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
