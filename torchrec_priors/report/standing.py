"""Sentences that compare a model with priors with baseline models, one head and controls."""

from collections.abc import Mapping, Sequence

from torchrec_priors.report.gains import Gains, Over, sign
from torchrec_priors.report.page_table import signed
from torchrec_priors.report.sections import Row, Section, differing
from torchrec_priors.settings.training import MAY_CHANGE

NAMED = 4  # groups or rows by name, in a sentence

# Beginnings of the keys that belong to heads, and of those that change no number.
_OF_HEADS = ("priors.", "loss.gate", "loss.balance", "negatives.catalogue_share", "evaluation.")
_NO_NUMBERS = ("sharding.", *(f"training.{name}" for name in MAY_CHANGE))

# What a difference to a control means, by its sign.
_CONTROL_MEANS = {
    1: "what is together counts, not that there are more heads",
    0: "what is together may not count, only that there are more heads",
    -1: "what is together does not help",
}


def over_one_head(section: Section, row: Row, gains: Gains) -> Over | None:
    """The difference to one head of the same horizon, if that is not the reference row."""
    reference = section.reference.variant
    one_head = section.plain_of(row.variant.horizon)
    if not row.variant.kinds or one_head is None:
        return None
    if reference.plain and reference.horizon == row.variant.horizon:
        return None
    return gains.over.get(one_head.label)


def besides_heads(row: Row, other: Row) -> list[str]:
    """Settings that differ between rows, except those of heads or without effect on numbers."""
    keys = differing([row, other])
    return [key for key in keys if not key.startswith((*_OF_HEADS, *_NO_NUMBERS))]


def what_heads_add(section: Section, row: Row, gains: Gains) -> list[str]:
    """A caution if the heads are not what gains."""
    over = over_one_head(section, row, gains)
    if over is None or sign(over.ndcg) > 0:
        return []

    others = ""
    keys = besides_heads(row, over.row)
    if keys:
        others = f" (together with other {', '.join(keys)})"
    one_head = f"“{over.row.label}”, one head with the same horizon, its heads"
    if sign(over.ndcg) < 0:
        return [f"Over {one_head} lose {signed(over.ndcg)}{others}."]

    start = "Over"
    reference = section.reference.variant
    if reference.plain and reference.horizon < row.variant.horizon:
        start = "That is the longer horizon's doing: over"
    return [f"{start} {one_head} add {signed(over.ndcg)}{others}, which cannot be told from none."]


def without_priors(gains: Gains) -> list[Over]:
    """Differences to baseline models, one head, and one head re-ranked; the nearest first."""
    overs = [over for over in gains.over.values() if not over.row.variant.kinds]
    return sorted(overs, key=lambda over: over.ndcg.mean)


def among(section: Section, row: Row, gains: Gains) -> str:
    """The row's place among all rows without priors; empty if the reference row is the only one."""
    overs = without_priors(gains)
    if [over.row for over in overs] in ([], [section.reference]):
        return ""
    below = [over for over in overs if sign(over.ndcg) < 0]
    level = [over for over in overs if sign(over.ndcg) == 0]
    above = [over for over in overs if sign(over.ndcg) > 0]

    parts = []
    if below:
        parts.append(f"is below {_listed(below, row)}")
    if level:
        parts.append(f"cannot be told from {_listed(level, row)}")
    if len(above) == 1:
        parts.append(f"is above {_listed(above, row)}")
    elif above:
        number = f"{len(above)} of the {len(overs)}"
        if len(above) == len(overs):
            number = f"all {len(above)}"
        nearest = _listed(above[:1], row)
        parts.append(f"is above {number} rows without priors, the nearest of them {nearest}")
    text = "; ".join(parts)

    others = [other for other in section.rows if not other.variant.kinds and other is not row]
    unknown = len(others) - len(overs)
    if unknown:
        text += f" ({unknown} more have no intervals)"
    return text


def over_controls(row: Row, gains: Gains) -> list[str]:
    """Whether it matters which items are in a group, or only that there are heads."""
    if row.variant.control or not row.variant.kinds:
        return []
    return [
        f"Over its control “{over.row.label}” it has {signed(over.ndcg)}{_seeds(over, row)}: "
        f"{_CONTROL_MEANS[sign(over.ndcg)]}."
        for over in gains.over.values()
        if over.row.variant.control
    ]


def re_ranked(section: Section, row: Row, gains: Mapping[str, Gains]) -> list[str]:
    """The same model with its lists made more diverse afterwards, and what that costs."""
    overs = []
    for other in section.rows:
        if other.label not in gains:
            continue
        over = gains[other.label].over.get(row.label)
        if over and other.variant.adjusted and over.entropy.low > 0:
            overs.append((other, over))
    # The smallest change of the lists first.
    overs.sort(key=lambda pair: pair[1].entropy.mean)

    return [
        f"More diverse lists: “{other.label}” is the same model re-ranked: over it, "
        f"{signed(over.entropy, 3)} bits of entropy@10 and {signed(over.ndcg)} of ndcg@10."
        for other, over in overs[:NAMED]
    ]


def _listed(overs: Sequence[Over], row: Row) -> str:
    named = "; ".join(
        f"“{over.row.label}” (ndcg@10 {signed(over.ndcg)}{_seeds(over, row)})"
        for over in overs[:NAMED]
    )
    if len(overs) > NAMED:
        named += f" and {len(overs) - NAMED} more"
    return named


def _seeds(over: Over, row: Row) -> str:
    """The seeds of a difference, if it does not use all seeds of both rows."""
    ours, theirs = over.seeds
    if ours != theirs:
        return ", no seed shared"
    if list(ours) == row.seeds == over.row.seeds:
        return ""
    plural = "s" if len(ours) > 1 else ""
    return f", on seed{plural} {', '.join(map(str, ours))} alone"
