"""Scores that nobody can exceed on a mixed log: those of the distribution that drew it.

The oracle knows what is planted in the catalogue, and of each user as much as it is told. Its list
has the items with the highest expected number of draws in the next interactions. Comparing oracles
that know different sources shows what a prior could gain at most.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchrec_priors.errors import UserError
from torchrec_priors.synthetic.catalogue import Catalogue
from torchrec_priors.synthetic.files import CORPUS, VERSION, catalogue_size
from torchrec_priors.synthetic.folder import MARKER
from torchrec_priors.synthetic.histories import LENGTHS
from torchrec_priors.synthetic.mixed.expected import Expected, over_items
from torchrec_priors.synthetic.mixed.histories import make_mixed
from torchrec_priors.synthetic.mixed.mix import Mix, Source
from torchrec_priors.synthetic.mixed.structure import Structure
from torchrec_priors.synthetic.users import chunks

# What may be known before the next interactions. Their event types are not.
KNOWABLE = (Source.long_term, Source.session, Source.community, Source.group)
_USERS_AT_ONCE = 4096


@dataclass(frozen=True)
class Scores:
    """Means over users.

    Attributes:
        users: The number of users.
        recall: The share of a user's targets in the list.
        ndcg: The ndcg of the list, with binary gains, as in `evaluate`.
        entropy: The entropy of the level-1 categories of the list, in bits.
        target_entropy: The entropy of the level-1 categories of the targets, in bits.
        bits: -log2 of the probability of the next interaction's item. Users whose next item is a
            repeated one are left out.
    """

    users: int
    recall: float
    ndcg: float
    entropy: float
    target_entropy: float
    bits: float


class Oracle:
    """The oracle of a mixed log.

    The histories are generated again, which gives exactly those of the log.

    Args:
        rows: The number of interactions of the log.
        seed: The seed of the log.
        mix: The settings of the log.
        items: The number of items of the catalogue; None for that of a log with `rows` rows.
        horizon: The number of targets of a user. As in `prepare`, users with at most twice as many
            interactions are left out.
        most_users: The number of users to score at most; the first ones are taken.
    """

    def __init__(
        self,
        rows: int,
        seed: int,
        mix: Mix,
        *,
        items: int | None = None,
        horizon: int = 8,
        most_users: int = 2_000,
    ) -> None:
        catalogue = Catalogue.make(catalogue_size(rows, items), seed)
        self.structure = Structure.make(catalogue, mix.communities_of(len(catalogue.leaf)), seed)
        self.horizon = horizon
        self.category = catalogue.top_of_leaf[catalogue.leaf]

        # The first users are the same for chunks of every size.
        self.parts: list[Expected] = []
        wanted = most_users
        for users, lengths in chunks(rows, seed, LENGTHS, min(_USERS_AT_ONCE, 2 * most_users)):
            long = np.flatnonzero(lengths > 2 * horizon)[:wanted]
            made = make_mixed(self.structure, mix, seed, users, lengths)
            self.parts.append(Expected(self.structure, mix, made, long, horizon))
            wanted -= len(long)
            if not wanted:
                break

    @classmethod
    def of(cls, raw: Path, *, horizon: int = 8, most_users: int = 2_000) -> "Oracle":
        """Returns the oracle of the log in a folder that `prepare --generate` wrote.

        Raises:
            UserError: The folder has no such log, or the log is of another world or version.
        """
        file = raw / MARKER
        try:
            made = json.loads(file.read_text(encoding="utf8"))
            corpus, version = made["corpus"], made["version"]
            options = made.get("options", {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{file}' does not describe a generated log: {error}") from error
        if corpus != CORPUS or "mix" not in options:
            raise UserError(
                f"'{raw}' holds a log whose distribution is not known: "
                f"generate one with --dataset {CORPUS} --option world=mixed"
            )
        if version != VERSION:
            raise UserError(f"'{raw}' is of version {version}, not {VERSION}: generate it again")
        return cls(
            made["rows"],
            made["seed"],
            Mix(**options["mix"]),
            items=options.get("items"),
            horizon=horizon,
            most_users=most_users,
        )

    def scores(self, known: Collection[Source] = KNOWABLE, k: int = 10) -> Scores:
        """Scores the best lists that one can make from what is known.

        Args:
            known: The sources whose state is known; see `Expected.draws`.
            k: The length of the lists.
        """
        values = [row for part in self.parts for row in self._scores(part, known, k)]
        if not values:
            raise UserError(f"no user has more than {2 * self.horizon} interactions")
        recall, ndcg, entropy, target_entropy, bits = np.array(values).T
        return Scores(
            users=len(values),
            recall=float(recall.mean()),
            ndcg=float(ndcg.mean()),
            entropy=float(entropy.mean()),
            target_entropy=float(target_entropy.mean()),
            bits=float(np.nanmean(bits)),
        )

    def _scores(
        self, part: Expected, known: Collection[Source], k: int
    ) -> list[tuple[float, float, float, float, float]]:
        """Returns recall, ndcg, both entropies and bits of each user; NaN for bits left out."""
        pools = self.structure.pools
        whole = self.structure.whole
        all_draws = part.draws(known, self.horizon)
        next_draws = part.draws(known, 1)
        values = []
        for index, (begin, cut) in enumerate(zip(part.begin, part.cut, strict=True)):
            history = part.made.position[begin : begin + cut]
            targets = part.made.position[begin + cut : begin + cut + self.horizon]
            seen = np.zeros(len(self.category), bool)
            seen[history] = True

            expected = over_items(pools, whole, all_draws[index], seen)
            listed = np.argsort(-expected, kind="stable")[:k]
            chance = over_items(pools, whole, next_draws[index], seen)[targets[0]]
            values.append(
                (
                    *_accuracy(listed, targets),
                    _entropy(self.category[listed]),
                    _entropy(self.category[targets]),
                    -float(np.log2(chance)) if chance > 0 else float("nan"),
                )
            )
        return values


def _accuracy(listed: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Returns recall and ndcg of a list, for the distinct targets."""
    distinct = np.unique(targets)
    hits = np.isin(listed, distinct)
    discount = 1 / np.log2(2 + np.arange(len(listed)))
    ideal = discount[: len(distinct)].sum()
    return float(hits.sum() / len(distinct)), float((hits * discount).sum() / ideal)


def _entropy(category: np.ndarray) -> float:
    """Returns the entropy of categories, in bits."""
    share = np.unique(category, return_counts=True)[1] / len(category)
    return float(-(share * np.log2(share)).sum()) + 0.0
