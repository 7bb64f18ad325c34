"""The search for users whose next events are known: only by the heads of those events.

A path is open to an event if the event is in its group at every level of events that it goes
through, and it goes through at least one. In an additive tree the heads of other levels are closed,
as they know nothing of the event. A user may use the paths open to any of its events; users' own
groups close paths as they always do.

Shapes: B users, K paths, E event codes, G groups of a level, T targets.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.priors.tree import PriorTree, paths_of_groups
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.search_types import Found, Queries


class EventGiven:
    """Finds items for users, given the events of their targets.

    Every rank must create one and call it alike.
    """

    def __init__(self, finder: Finder, events: int) -> None:
        """
        Args:
            finder: of a model whose tree has a level of events (see `levels_of_events`).
            events: the number of event codes.
        """
        self.finder = finder
        self.open_EK = paths_of_events(finder.model.tree, events)
        # c(i) counts only heads that may answer here, i.e. those of these branches.
        branches = finder.model.tree.branch_K[self.open_EK.any(0).cpu()]
        self.index = finder.index.among(finder.model.tree, branches.unique().tolist())

    @torch.no_grad()
    def find(self, users: Histories, queries: Queries, k: int) -> Found:
        """Top-k of this rank's users, whose `target_columns` hold events.

        Args:
            queries: of all paths (see `Finder.queries`).
        """
        device = self.open_EK.device
        user_T = torch.from_numpy(np.repeat(np.arange(len(users)), users.target_lengths)).to(device)
        event_T = torch.from_numpy(users.target_columns["events"]).to(device)

        # A path is open to a user if any of the events is: a product of 0/1 matrices counts them.
        given_BE = torch.zeros(len(users), len(self.open_EK), device=device)
        given_BE[user_T, event_T] = 1.0
        open_BK = given_BE @ self.open_EK.float() > 0
        return self.finder.find(users, queries.within(open_BK), k, self.index)


def levels_of_events(tree: PriorTree) -> list[int]:
    """Numbers of the levels whose groups are groups of events."""
    return [
        number for number, level in enumerate(tree.levels) if hasattr(level, "groups_of_events")
    ]


def paths_of_events(tree: PriorTree, events: int) -> Tensor:
    """bool [E, K]: paths open to each event (see above)."""
    event_E = torch.arange(events, device=tree.device)
    open_EK = torch.ones(events, len(tree.item_set_K), dtype=torch.bool, device=tree.device)
    has_event_level_K = open_EK.new_zeros(open_EK.shape[1])

    # Every level of events closes the paths whose group lacks the event.
    for number in levels_of_events(tree):
        level = tree.levels[number]
        group_K = tree.groups_at(number).to(tree.device)
        index, group = level.groups_of_events(event_E)  # type: ignore[operator]
        groups = len(level.groups)  # type: ignore[arg-type]
        in_group_EG = torch.zeros(events, groups, dtype=torch.bool, device=tree.device)
        in_group_EG[index, group] = True

        open_EK &= paths_of_groups(in_group_EG, group_K)
        has_event_level_K |= group_K >= 0
    return open_EK & has_event_level_K
