"""What is planted in the catalogue: communities of items, and the favourites of events and groups.

Communities and favourites are random, so they are independent of the categories and of each other.
"""

from dataclasses import dataclass, replace

import numpy as np

from torchrec_priors.synthetic.catalogue import Catalogue
from torchrec_priors.synthetic.histories import EVENTS, SPENDING
from torchrec_priors.synthetic.mixed.pools import Pools

# Popularity is the catalogue's to this power. With 1, the most popular items of each set would have
# so much of it that popularity alone would be nearly as good as knowledge of the user.
_FLATTER = 0.7
_FAVOURITES = 0.02  # share of the catalogue that is a favourite of an event type, or of a group
_FEWEST_FAVOURITES = 8
_STREAM = 0x737472756374  # distinguishes these draws from other uses of the seed


@dataclass(frozen=True)
class Structure:
    """The sets of items from which the sources draw.

    The pools are, in this order: the leaves, the communities, the favourites of the event types,
    the favourites of the groups, and the whole catalogue. The attributes give the first number of
    each kind.

    Attributes:
        catalogue: The catalogue, with the popularities of this world.
        community: The number of each item's community, by position.
        favourite_of_event: The positions of the favourites of each event type.
        favourite_of_group: The positions of the favourites of each group.
        pools: All pools.
        communities, events, groups, whole: The first pool of each kind; leaves begin at 0.
    """

    catalogue: Catalogue
    community: np.ndarray
    favourite_of_event: tuple[np.ndarray, ...]
    favourite_of_group: tuple[np.ndarray, ...]
    pools: Pools
    communities: int
    events: int
    groups: int
    whole: int

    @classmethod
    def make(cls, catalogue: Catalogue, communities: int, seed: int) -> "Structure":
        """Plants communities and favourites in a catalogue.

        The draws below must stay in this order: in another order, the same seed would give a
        different structure.
        """
        random = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
        items = len(catalogue.leaf)
        flatter = catalogue.weight**_FLATTER
        catalogue = replace(catalogue, weight=flatter / flatter.sum())

        community = random.permutation(np.arange(items) % communities)

        size = min(items, max(_FEWEST_FAVOURITES, int(_FAVOURITES * items)))
        of_events = tuple(np.sort(random.permutation(items)[:size]) for _ in EVENTS)
        of_groups = tuple(np.sort(random.permutation(items)[:size]) for _ in SPENDING)

        leaves = np.split(np.arange(items), catalogue.leaf_bounds[1:-1])
        of_communities = np.split(
            np.argsort(community, kind="stable"),
            np.cumsum(np.bincount(community, minlength=communities))[:-1],
        )
        pools = [*leaves, *of_communities, *of_events, *of_groups, np.arange(items)]
        return cls(
            catalogue=catalogue,
            community=community,
            favourite_of_event=of_events,
            favourite_of_group=of_groups,
            pools=Pools(catalogue.weight, pools),
            communities=len(leaves),
            events=len(leaves) + communities,
            groups=len(leaves) + communities + len(EVENTS),
            whole=len(pools) - 1,
        )

    def names(self) -> list[str]:
        """Returns the name of each pool."""
        return [
            *(leaf.level3 for leaf in self.catalogue.tree),
            *(f"community {number + 1}" for number in range(self.events - self.communities)),
            *EVENTS,
            *SPENDING,
            "catalogue",
        ]
