"""Compares a model with priors with the other rows, in sentences: baseline models, one head, controls, its re-rankings."""

from collections.abc import Mapping, Sequence

from torchrec_priors.report.gains import Gains, Over, sign
from torchrec_priors.report.page_table import signed
from torchrec_priors.report.sections import Row, Section, differing
from torchrec_priors.settings.training import MAY_CHANGE

NAMED = 4  # groups or rows by name, in a sentence
_OF_HEADS = ("priors.", "loss.gate", "loss.balance", "negatives.catalogue_share", "evaluation.")
_NO_NUMBERS = ("sharding.", *(f"training.{name}" for name in MAY_CHANGE))


def over_one_head(section: Section, row: Row, gains: Gains) -> Over | None:
    """Over one head of the same horizon, where that is not the reference row."""
    base = section.reference.variant
    plain = section.plain_of(row.variant.horizon)
    if (
        not row.variant.kinds
        or plain is None
        or (base.plain and base.horizon == row.variant.horizon)
    ):
        return None
    return gains.over.get(plain.label)


def besides_heads(row: Row, other: Row) -> list[str]:
    """Settings that are not the same in both, other than those of heads and those that change no number."""
    return [
        key for key in differing([row, other]) if not key.startswith((*_OF_HEADS, *_NO_NUMBERS))
    ]


def what_heads_add(section: Section, row: Row, gains: Gains) -> list[str]:
    """A caution where the heads are not what gains."""
    over = over_one_head(section, row, gains)
    if over is None or sign(over.ndcg) > 0:
        return []
    keys = besides_heads(row, over.row)
    others = f" (together with other {', '.join(keys)})" if keys else ""
    one_head = f"“{over.row.label}”, one head with the same horizon, its heads"
    if sign(over.ndcg) < 0:
        return [f"Over {one_head} lose {signed(over.ndcg)}{others}."]
    longer = (
        section.reference.variant.plain and section.reference.variant.horizon < row.variant.horizon
    )
    start = "That is the longer horizon's doing: over" if longer else "Over"
    return [f"{start} {one_head} add {signed(over.ndcg)}{others}, which cannot be told from none."]


def without_priors(gains: Gains) -> list[Over]:
    """Over baseline models, one head, and one head re-ranked; the nearest first."""
    return sorted(
        (over for over in gains.over.values() if not over.row.variant.kinds),
        key=lambda over: over.ndcg.mean,
    )


def among(section: Section, row: Row, gains: Gains) -> str:
    """Where it stands among all rows without priors; empty where there is the reference row alone."""
    overs = without_priors(gains)
    if [over.row for over in overs] in ([], [section.reference]):
        return ""
    below, level, above = (
        [over for over in overs if sign(over.ndcg) == wanted] for wanted in (-1, 0, 1)
    )
    parts = [f"is below {_listed(below, row)}"] if below else []
    parts += [f"cannot be told from {_listed(level, row)}"] if level else []
    if len(above) == 1:
        parts.append(f"is above {_listed(above, row)}")
    elif above:
        some = (
            f"all {len(above)}" if len(above) == len(overs) else f"{len(above)} of the {len(overs)}"
        )
        parts.append(
            f"is above {some} rows without priors, the nearest of them {_listed(above[:1], row)}"
        )
    unknown = sum(not other.variant.kinds and other is not row for other in section.rows) - len(
        overs
    )
    return "; ".join(parts) + (f" ({unknown} more have no intervals)" if unknown else "")


def over_controls(row: Row, gains: Gains) -> list[str]:
    """Whether what is together counts, or that there are heads at all."""
    if row.variant.control or not row.variant.kinds:
        return []
    said = []
    for over in gains.over.values():
        if over.row.variant.control:
            means = {
                1: "what is together counts, not that there are more heads",
                0: "what is together may not count, only that there are more heads",
                -1: "what is together does not help",
            }[sign(over.ndcg)]
            said.append(
                f"Over its control “{over.row.label}” it has {signed(over.ndcg)}{_seeds(over, row)}: {means}."
            )
    return said


def re_ranked(section: Section, row: Row, gains: Mapping[str, Gains]) -> list[str]:
    """The same model with its lists made more diverse afterwards, and what that costs."""
    found = [
        (other, gains[other.label].over.get(row.label))
        for other in section.rows
        if other.label in gains
    ]
    overs = [
        (other, over)
        for other, over in found
        if over and other.variant.adjusted and over.entropy.low > 0
    ]
    return [
        f"More diverse lists: “{other.label}” is the same model re-ranked: over it, {signed(over.entropy, 3)} bits of "
        f"entropy@10 and {signed(over.ndcg)} of ndcg@10."
        for other, over in sorted(overs, key=lambda pair: pair[1].entropy.mean)[:NAMED]
    ]


def _listed(overs: Sequence[Over], row: Row) -> str:
    named = "; ".join(
        f"“{over.row.label}” (ndcg@10 {signed(over.ndcg)}{_seeds(over, row)})"
        for over in overs[:NAMED]
    )
    return named + (f" and {len(overs) - NAMED} more" if len(overs) > NAMED else "")


def _seeds(over: Over, row: Row) -> str:
    """Said where the difference does not rest on all seeds of both."""
    ours, theirs = over.seeds
    if ours != theirs:
        return ", no seed shared"
    whole = list(ours) == row.seeds == over.row.seeds
    return "" if whole else f", on seed{'s' * (len(ours) > 1)} {', '.join(map(str, ours))} alone"
