"""Searches with only the heads of given events, for users with known next events.

A path is open to an event if it goes through at least one level of events, and if its group at each
of these levels contains the event. In an additive tree the paths of other levels are closed, as
their heads do not depend on the event. A user with several events may use the paths that are open
to any of them. Paths of groups that the user is not in stay closed.

Shapes: B users, K paths, E event codes, G groups of a level, T targets.
"""

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.data.histories import Histories
from torchrec_priors.priors.paths_of_users import paths_of_groups
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.search_types import Found, Queries


class EventGiven:
    """Finds items for users, given the events of their targets.

    Every rank must create one, and make the same calls.
    """

    def __init__(self, finder: Finder, events: int) -> None:
        """
        Args:
            finder: the finder of a model with a level of events in its tree (see
                `levels_of_events`).
            events: the number of event codes.
        """
        self.finder = finder
        self.open_EK = paths_of_events(finder.model.tree, events)
        # Calibrated fusion divides by c_k(i), the number of heads that estimate the same
        # probability. Here it must count only the branches (`PriorTree.branch_K`) with open paths.
        branches = finder.model.tree.branch_K[self.open_EK.any(0).cpu()]
        self.index = finder.index.among(finder.model.tree, branches.unique().tolist())

    @torch.no_grad()
    def find(self, users: Histories, queries: Queries, k: int) -> Found:
        """Finds the k best items of each of this rank's users.

        Args:
            users: the users (see `Finder.contexts`); their `target_columns` must have the events
                of their targets.
            queries: the queries of all paths (see `Finder.queries`).
            k: the number of items for each user.
        """
        device = self.open_EK.device
        user_T = torch.from_numpy(np.repeat(np.arange(len(users)), users.target_lengths)).to(device)
        event_T = torch.from_numpy(users.target_columns["events"]).to(device)

        # The product of these 0/1 matrices counts the events of a user that a path is open to.
        given_BE = torch.zeros(len(users), len(self.open_EK), device=device)
        given_BE[user_T, event_T] = 1.0
        open_BK = given_BE @ self.open_EK.float() > 0
        # The repeat head does not depend on the event, either.
        given = queries.within(open_BK).without_repeats()
        return self.finder.find(users, given, k, self.index)


def levels_of_events(tree: PriorTree) -> list[int]:
    """Returns the numbers of the levels that have groups of events."""
    return [
        number for number, level in enumerate(tree.levels) if hasattr(level, "groups_of_events")
    ]


def paths_of_events(tree: PriorTree, events: int) -> Tensor:
    """Returns bool [E, K]: whether a path is open to an event (see above)."""
    event_E = torch.arange(events, device=tree.device)
    open_EK = torch.ones(events, len(tree.item_set_K), dtype=torch.bool, device=tree.device)
    has_event_level_K = open_EK.new_zeros(open_EK.shape[1])

    # Each level of events closes the paths through groups that do not contain the event.
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
