"""What single users are worth adds up to what `evaluate` has written of all."""

from dataclasses import replace

import numpy as np
import pytest

from torchrec_priors.experiments.per_user import COMPARED
from torchrec_priors.report.comparison import differences
from torchrec_priors.report.gains import gains_of, resamples
from torchrec_priors.report.users import PerUser


@pytest.fixture(scope="module")
def per_user(section):
    return PerUser.of(section)


def test_means_over_all_over_newcomers_and_over_groups_are_those_of_the_evaluation(
    section, per_user
):
    assert not per_user.missing
    people, category = per_user.people, per_user.category
    for row in section.rows:
        for result in row.results:
            values_UM = per_user.values[row.label][result.seed]
            group_UG = per_user.groups[row.label][result.seed]
            for number, name in enumerate(COMPARED):
                assert values_UM[:, number].mean() == pytest.approx(result.metrics[name])
                mean = values_UM[people.newcomer_U, number].mean()
                assert mean == pytest.approx(result.metrics[f"new_interest/{name}"])
            assert people.newcomer_U.sum() == result.metrics["new_interest/users"]
            for prior, groups in people.groups.items():
                for group, who in groups.items():
                    key = f"group/{prior}/{group}"
                    assert who.sum() == result.metrics[f"{key}/users"]
                    assert values_UM[who, 0].mean() == pytest.approx(
                        result.metrics[f"{key}/ndcg@10"]
                    )
            for number, group in enumerate(category.groups):
                expected = result.metrics[f"group/{category.name}/{group}/ndcg@10"]
                some = group_UG[:, number][~np.isnan(group_UG[:, number])]
                assert len(some) == result.metrics[f"group/{category.name}/{group}/users"]
                assert expected is None if not len(some) else some.mean() == pytest.approx(expected)


def test_a_gain_is_the_difference_of_means_with_the_right_sign(section, per_user):
    gains = gains_of(section, per_user)
    base = section.reference
    assert base.label not in gains
    assert set(gains) == {row.label for row in section.rows} - {base.label}
    for row in section.rows:
        if row is not base:
            found = gains[row.label]
            for name in COMPARED:
                assert found.overall[name].mean == pytest.approx(row.mean(name) - base.mean(name))
            metric = "new_interest/ndcg@10"
            assert found.newcomers.interval.mean == pytest.approx(
                row.mean(metric) - base.mean(metric)
            )
            for gain in found.user_groups["gender"]:
                metric = f"group/gender/{gain.of}/ndcg@10"
                assert gain.interval.mean == pytest.approx(row.mean(metric) - base.mean(metric))
                assert gain.before == pytest.approx(base.mean(metric))
    over = gains["age"].over["lt-st-1"]
    rows = {row.label: row for row in section.rows}
    assert over.ndcg.mean == pytest.approx(
        rows["age"].mean("ndcg@10") - rows["lt-st-1"].mean("ndcg@10")
    )
    assert gains["genre-lt-st-2"].overall["ndcg@10"].low > 0, "five times as many hits"


def test_seeds_that_differences_rest_on_are_told_where_they_are_not_the_same(section, per_user):
    assert differences(section, gains_of(section, per_user), 9).head[-1] == "entropy@10"
    values = dict(per_user.values)
    values["age"] = {5: values["age"][0]}
    values["genre"] = {1: values["genre"][1]}
    gains = gains_of(section, replace(per_user, values=values))
    table = differences(section, gains, 9)
    assert table.head[-1] == "seeds"
    told = {line.cells[0]: line.cells[-1] for line in table.lines}
    assert told["lt-st-1"] == "seeds 0, 1"
    assert told["genre"] == "seed 1"
    assert told["age"] == "seed 5; of the reference row seeds 0, 1: none shared"
    base = values[section.reference.label]
    expected = (values["age"][5] - (base[0] + base[1]) / 2)[:, 0].mean()
    assert gains["age"].overall["ndcg@10"].mean == pytest.approx(expected)


def test_fewer_resamples_of_more_users():
    assert resamples(100) == 10_000
    assert 200 < resamples(200_000) < 10_000
    assert resamples(100_000_000) == 200
