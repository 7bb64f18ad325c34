"""Heads for events are trained against negatives of their own group: items that saw the event in training."""

import numpy as np
import pytest
from small_movielens import read_sequences

from torchrec_priors.config import parse
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.build import build_model
from torchrec_priors.training.sampler import make_sampler

E = 8


def _negatives(data, steps, **negatives):
    """[(head, films drawn for it in all steps)]."""
    config = parse({"model": {"dim": 8}, "encoder": {"layers": 1}, "priors": {"tree": ["rating"]},
                    "negatives": negatives})  # fmt: skip
    films = data.catalogue(["item_id"])["item_id"].to_pylist()
    drawn: dict[str, list[int]] = {}
    with join() as ranks:
        built = build_model(config, data, ranks)
        sampler = make_sampler(built, config, data, ranks)
        for step in range(steps):
            draw = sampler.draw(step)
            of_set = np.split(draw.own_ids, np.cumsum(draw.counts_S))[: len(draw.counts_S)]
            for path in built.model.tree.paths:
                drawn.setdefault(path.name, []).extend(films[row] for row in of_set[path.item_set])
    return drawn


@pytest.mark.parametrize(
    "negatives", [{"per_set": 6}, {"per_set": 8, "popularity": 0.5, "catalogue_share": 0.5}]
)
def test_negatives_of_an_event_saw_it_in_training(negatives, small_data, small_raw):
    saw: dict[str, set[int]] = {}
    for ratings in read_sequences(small_raw, E).values():
        for rating in ratings[: -2 * E]:
            saw.setdefault(f"{rating.stars} star{'s' if rating.stars > 1 else ''}", set()).add(
                rating.film
            )
    found = _negatives(PreparedData(small_data), 400, **negatives)
    assert found.keys() == saw.keys()
    assert len({frozenset(films) for films in saw.values()}) == 5, "the heads' groups differ"
    for head, films in found.items():
        assert set(films) <= saw[head], head
        if "popularity" not in negatives:
            assert set(films) == saw[head], "any of them may be drawn"
        assert len(films) == 400 * (negatives["per_set"] - 4 * ("popularity" in negatives))
