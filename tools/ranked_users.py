"""Searches for some users of a trained run, for tools that look into models."""

from collections.abc import Iterator

import numpy as np

from torchrec_priors.data.histories import Histories, history_batches, users_of
from torchrec_priors.retrieval.find import Finder
from torchrec_priors.retrieval.search_types import Queries
from torchrec_priors.training.open_run import OpenRun


def queries_of(
    opened: OpenRun, split: str, users: int
) -> Iterator[tuple[Finder, Histories, Queries]]:
    """Yields the search of a run, and the targets and queries of each batch of users.

    The users are the same for every run of a data set: they are spread evenly over those of the split.

    Args:
        opened: the run.
        split: the split with the targets.
        users: the most users.
    """
    data = opened.data
    candidates = np.flatnonzero(users_of(data, split))
    chosen_U = np.zeros(data.users, bool)
    spread = np.linspace(0, len(candidates) - 1, min(users, len(candidates)))
    chosen_U[candidates[spread.round().astype(np.int64)]] = True

    with opened.join_ranks() as ranks:
        built = opened.build(ranks)
        opened.load_best(built)
        built.model.eval()
        settings = opened.config.evaluation
        finder = Finder.of(built.model, built.fetch_index(), settings, data, ranks.device)

        for batch in history_batches(
            data,
            split,
            context=finder.context,
            batch=settings.batch,
            columns=built.columns,
            chosen=chosen_U,
        ):
            context = finder.contexts(batch)
            yield finder, context, finder.queries(context, finder.ask(context))
