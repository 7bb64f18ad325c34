"""Sentences that compare a model that has priors with models that have none and with controls."""

from collections.abc import Mapping, Sequence

from torchrec_priors.report.gains import Gains, Over, sign
from torchrec_priors.report.page_table import signed
from torchrec_priors.report.sections import Row, Section, differing
from torchrec_priors.settings.training import MAY_CHANGE

NAMED = 4  # groups or rows that a sentence names

# Prefixes of the keys that belong to heads, and of the keys that do not change the metrics.
_OF_HEADS = ("priors.", "loss.gate", "loss.balance", "negatives.catalogue_share", "evaluation.")
_NO_NUMBERS = ("sharding.", *(f"training.{name}" for name in MAY_CHANGE))

# What a difference from a control means, by its sign.
_CONTROL_MEANS = {
    1: "the choice of groups matters, not only the number of heads",
    0: "perhaps only the number of heads matters, not the choice of groups",
    -1: "the choice of groups does not help",
}


def over_one_head(section: Section, row: Row, gains: Gains) -> Over | None:
    """Returns the difference from one head with the same horizon.

    Returns:
        the difference; None if it is unknown, or if the reference row is that one head.
    """
    reference = section.reference.variant
    one_head = section.plain_of(row.variant.horizon)
    if not row.variant.kinds or one_head is None:
        return None
    if reference.plain and reference.horizon == row.variant.horizon:
        return None
    return gains.over.get(one_head.label)


def besides_heads(row: Row, other: Row) -> list[str]:
    """Returns the settings that differ, except those of heads and those that change no metric."""
    keys = differing([row, other])
    return [key for key in keys if not key.startswith((*_OF_HEADS, *_NO_NUMBERS))]


def what_heads_add(section: Section, row: Row, gains: Gains) -> list[str]:
    """Returns a sentence of caution if the heads do not gain over one head; else nothing."""
    over = over_one_head(section, row, gains)
    if over is None or sign(over.ndcg) > 0:
        return []

    others = ""
    keys = besides_heads(row, over.row)
    if keys:
        others = f" (other settings differ, too: {', '.join(keys)})"
    one_head = f"“{over.row.label}” (one head with the same horizon), its heads"
    if sign(over.ndcg) < 0:
        return [f"Compared with {one_head} lose {signed(over.ndcg)}{others}."]

    start = "Over"
    reference = section.reference.variant
    if reference.plain and reference.horizon < row.variant.horizon:
        start = "The gain is due to the longer horizon: over"
    return [f"{start} {one_head} add {signed(over.ndcg)}{others}: not distinguishable from 0."]


def without_priors(gains: Gains) -> list[Over]:
    """Returns the differences from all rows without priors, the smallest difference first."""
    overs = [over for over in gains.over.values() if not over.row.variant.kinds]
    return sorted(overs, key=lambda over: over.ndcg.mean)


def among(section: Section, row: Row, gains: Gains) -> str:
    """Compares a row with all rows without priors; "" if the reference row is the only one."""
    overs = without_priors(gains)
    if [over.row for over in overs] in ([], [section.reference]):
        return ""
    # These are the rows that this row is below, level with, and above.
    below = [over for over in overs if sign(over.ndcg) < 0]
    level = [over for over in overs if sign(over.ndcg) == 0]
    above = [over for over in overs if sign(over.ndcg) > 0]

    parts = []
    if below:
        parts.append(f"is below {_listed(below, row)}")
    if level:
        parts.append(f"is not distinguishable from {_listed(level, row)}")
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
    """Says for each control whether the choice of groups matters or only the number of heads."""
    if row.variant.control or not row.variant.kinds:
        return []
    return [
        f"Over its control “{over.row.label}” it has {signed(over.ndcg)}{_seeds(over, row)}: "
        f"{_CONTROL_MEANS[sign(over.ndcg)]}."
        for over in gains.over.values()
        if over.row.variant.control
    ]


def re_ranked(section: Section, row: Row, gains: Mapping[str, Gains]) -> list[str]:
    """Names re-rankings of the same model with more diverse lists, and what they cost in ndcg."""
    overs = []
    for other in section.rows:
        if other.label not in gains:
            continue
        over = gains[other.label].over.get(row.label)
        if over and other.variant.adjusted and over.entropy.low > 0:
            overs.append((other, over))
    # The re-ranking that changes the lists least comes first.
    overs.sort(key=lambda pair: pair[1].entropy.mean)

    return [
        f"More diverse lists: “{other.label}” is the same model, re-ranked; compared with it, "
        f"{signed(over.entropy, 3)} bits of entropy@10 and {signed(over.ndcg)} of ndcg@10."
        for other, over in overs[:NAMED]
    ]


def _listed(overs: Sequence[Over], row: Row) -> str:
    """Lists other rows with their differences from a row."""
    named = "; ".join(
        f"“{over.row.label}” (ndcg@10 {signed(over.ndcg)}{_seeds(over, row)})"
        for over in overs[:NAMED]
    )
    if len(overs) > NAMED:
        named += f" and {len(overs) - NAMED} more"
    return named


def _seeds(over: Over, row: Row) -> str:
    """Writes the seeds of a difference; "" if it uses all seeds of both rows."""
    ours, theirs = over.seeds
    if ours != theirs:
        return ", no seed shared"
    if list(ours) == row.seeds == over.row.seeds:
        return ""
    plural = "s" if len(ours) > 1 else ""
    return f", on only seed{plural} {', '.join(map(str, ours))}"
