"""The first words of a page are what its figures say."""

from dataclasses import replace

import pytest
from made_up import ONE_HEAD, evaluate, train

from torchrec_priors.config import write_override
from torchrec_priors.experiments.statistics import Interval
from torchrec_priors.report.advice import advice
from torchrec_priors.report.gains import gains_of
from torchrec_priors.report.runs import find
from torchrec_priors.report.sections import Row, sections
from torchrec_priors.report.standing import what_heads_add
from torchrec_priors.report.users import PerUser


def _advice(section):
    return advice(section, gains_of(section, PerUser.of(section)))


def test_the_best_prior_is_named_with_its_gain_and_its_cost(section):
    found = _advice(section)
    assert "Turn on “genre-lt-st-2” for everyone" in found.summary[0]
    best = section.rows[[row.label for row in section.rows].index("genre-lt-st-2")]
    gain = best.mean("ndcg@10") - section.reference.mean("ndcg@10")
    assert f"{gain:+.4f}" in found.summary[0]
    assert found.priors[0].label == "genre-lt-st-2"
    assert found.priors[0].verdict == "better"
    facts = dict(found.priors[0].facts)
    assert "38 heads, 2,432 parameters (the model: +2,432, +148.3%)" in facts["Costs"]
    differ = [
        key
        for key, value in best.config.items()
        if value != section.reference.config.get(key) and key != "seed"
    ]
    written = " ".join(write_override(key, best.config[key]) for key in differ)
    assert "priors.tree" in differ
    assert facts["Settings"].endswith(f": {written}")
    assert {"By age", "By gender", "By items"} <= set(facts)
    assert any(name.startswith("New interest") for name in facts)


def test_where_nothing_can_be_told_apart_the_page_says_so(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD), skill=0.1)
    evaluate(
        train(tmp_path / "genre", small_data, 'priors.tree=["genre"]', heads=19), skill=0.1
    )  # the same lists
    [section] = sections(find([tmp_path]).results, None)
    found = _advice(section)
    assert found.summary[0].startswith(
        "No prior among these runs gains ndcg@10 over “one-head” for all users"
    )
    assert found.priors[0].verdict == "open"
    assert "one seed" in found.summary[-1]


def test_what_loses_is_to_be_left_off(section):
    section.reference, before = (
        next(row for row in section.rows if row.label == "genre-lt-st-2"),
        section.reference,
    )
    try:
        found = _advice(section)
    finally:
        section.reference = before
    assert any(said.startswith("Leave off ") and "“lt-st-1”" in said for said in found.summary)
    assert {prior.verdict for prior in found.priors} <= {"worse", "open", "some"}


def test_without_the_data_set_there_are_no_intervals_and_the_page_says_why(section):
    section.missing = "there is no folder"
    try:
        found = advice(section, {})
    finally:
        section.missing = ""
    assert found.priors == []
    assert "a prior gains: there is no folder" in found.summary[0]


def test_one_head_alone_is_nothing_to_turn_on(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    [section] = sections(find([tmp_path]).results, None)
    assert "nothing to turn on" in _advice(section).summary[0]


def test_a_gain_of_the_horizon_is_not_said_to_be_one_of_the_heads(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    evaluate(train(tmp_path / "lt-st-1", small_data, "priors.tree=[]"), skill=0.5)
    evaluate(
        train(tmp_path / "genre", small_data, 'priors.tree=["genre"]', heads=19), skill=0.5
    )  # the same lists
    [section] = sections(find([tmp_path]).results, "one-head")
    section.rows.sort(key=lambda row: row.label)  # the heads first, as both gain alike
    summary = _advice(section).summary
    assert "Turn on “genre” for everyone" in summary[0]
    assert "due to the longer horizon: over “lt-st-1”" in summary[1]


def _with_baseline_models(data, folder, skills, reference="one-head"):
    """A prior, its control and a re-ranking of it, one head and baseline models, as good as they are said to be."""
    models = {
        "one-head": [*ONE_HEAD],
        "longer": ["priors.tree=[]"],
        "genre": ['priors.tree=["genre"]', "model.horizon=1"],
        "random": ['priors.tree=["random:genre"]', "model.horizon=1"],
        "sasrec": [*ONE_HEAD, "encoder.backbone=sasrec"],
        "remi": [*ONE_HEAD, "baseline.name=remi"],
    }
    for name, overrides in models.items():
        run = train(folder / name, data, *overrides)
        evaluate(run, skill=skills.get(name, 0.1))
        if name == "genre":
            evaluate(
                run, skill=0.3, name="re-ranked", overrides=["evaluation.diversify=0.1"], seed=7
            )
    [section] = sections(find([folder]).results, reference)
    return section


def test_a_prior_is_compared_with_all_that_has_none_and_a_re_ranked_one_with_itself(
    small_data, tmp_path
):
    section = _with_baseline_models(small_data, tmp_path, {"genre": 0.5, "sasrec": 0.2})
    gains = gains_of(section, PerUser.of(section))
    rows = {row.label: row for row in section.rows}
    assert set(gains["genre"].over) == {"one-head", "longer", "random", "sasrec", "remi, K = 4"}
    assert set(gains["genre re-ranked"].over) == {"genre"}
    assert not gains["sasrec"].over
    for label in ("genre", "genre re-ranked"):
        for over in gains[label].over.values():
            for name, interval in (("ndcg@10", over.ndcg), ("entropy@10", over.entropy)):
                gap = rows[label].mean(name) - rows[over.row.label].mean(name)
                assert interval.mean == pytest.approx(gap)
                assert interval.low <= gap <= interval.high
    assert gains["genre"].over["one-head"].ndcg == gains["genre"].overall["ndcg@10"]


def test_the_best_prior_is_placed_among_all_rows_without_priors_and_its_control(
    small_data, tmp_path
):
    section = _with_baseline_models(small_data, tmp_path, {"genre": 0.5, "sasrec": 0.2})
    summary = _advice(section).summary
    assert summary[0].startswith("Turn on “genre” for everyone: ")
    assert (
        "“genre” is above all 4 rows without priors, the nearest of them “sasrec” (ndcg@10 +"
        in summary[1]
    )
    assert summary[2].startswith("Over its control “random” it has +")
    assert "the choice of groups matters, not only the number of heads" in summary[2]
    of_one_head = next(prior for prior in _advice(section).priors if prior.label == "longer")
    assert "Control" not in dict(of_one_head.facts), "it has no heads to control"


def test_what_is_better_than_the_best_prior_is_said_first(small_data, tmp_path):
    found = _advice(
        _with_baseline_models(small_data, tmp_path, {"genre": 0.5, "sasrec": 0.9, "remi": 0.5})
    )
    assert found.summary[0].startswith("Turn on “genre” if you want to use a prior: ")
    assert found.summary[1].startswith("“genre” is below “sasrec” (ndcg@10 −")
    assert "is not distinguishable from “remi, K = 4”" in found.summary[1]
    assert dict(found.priors[0].facts)["Without priors"] in found.summary[1]


def test_a_control_is_not_recommended_and_a_prior_that_is_no_better_than_it_is_doubted(
    small_data, tmp_path
):
    found = _advice(_with_baseline_models(small_data, tmp_path, {"genre": 0.5, "random": 0.5}))
    assert found.summary[0].startswith("Turn on “genre” ")
    assert any(
        "perhaps only the number of heads matters, not the choice of groups" in said
        for said in found.summary
    )
    assert not any("on “random”" in said for said in found.summary)


def test_where_no_prior_gains_what_does_without_is_named(small_data, tmp_path):
    summary = _advice(_with_baseline_models(small_data, tmp_path, {"sasrec": 0.5})).summary
    assert summary[0].startswith("No prior among these runs gains ndcg@10")
    assert summary[1] == "More accurate than “one-head”, without priors: “sasrec”."


def test_a_gain_in_recall_alone_is_said(small_data, tmp_path):
    section = _with_baseline_models(small_data, tmp_path, {})
    gains = gains_of(section, PerUser.of(section))
    gains["genre"].overall |= {
        "ndcg@10": Interval(0.001, -0.001, 0.002),
        "recall@10": Interval(0.003, 0.001, 0.005),
    }
    assert (
        "“genre” gains only in recall@10: +0.0030 [+0.0010, +0.0050]."
        in advice(section, gains).summary
    )


def test_rows_without_intervals_and_other_seeds_are_said(small_data, tmp_path):
    section = _with_baseline_models(small_data, tmp_path, {"genre": 0.5, "sasrec": 0.2})
    per_user = PerUser.of(section)
    del per_user.values["remi, K = 4"]
    per_user.values["sasrec"] = {5: per_user.values["sasrec"][0]}
    said = advice(section, gains_of(section, per_user)).summary[1]
    assert "above all 3 rows without priors" in said
    assert "], no seed shared)" in said
    assert "(1 more have no intervals)" in said


def test_more_diverse_lists_of_the_same_model_are_named_with_what_they_cost(small_data, tmp_path):
    section = _with_baseline_models(small_data, tmp_path, {"genre": 0.5, "sasrec": 0.2})
    gains = gains_of(section, PerUser.of(section))
    over = gains["genre re-ranked"].over["genre"]
    for more, is_said in ((0.5, True), (-0.5, False)):
        over = replace(
            over,
            entropy=Interval(more, more - 0.1, more + 0.1),
            ndcg=Interval(-0.01, -0.02, -0.005),
        )
        gains["genre re-ranked"].over["genre"] = over
        said = [
            each
            for each in advice(section, gains).summary
            if "“genre re-ranked” is the same model" in each
        ]
        assert bool(said) == is_said
        assert not said or said[0].endswith(
            "compared with it, +0.500 [+0.400, +0.600] bits of entropy@10 and −0.0100 [−0.0200, −0.0050] of ndcg@10."
        )


def test_heads_that_lose_over_one_head_of_the_same_horizon_are_not_said_to_add(
    small_data, tmp_path
):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    evaluate(train(tmp_path / "lt-st-1", small_data, "priors.tree=[]"), skill=0.7)
    evaluate(
        train(tmp_path / "genre", small_data, 'priors.tree=["genre"]', "encoder.dropout=0.4"),
        skill=0.5,
    )
    [section] = sections(find([tmp_path]).results, "one-head")
    section.rows = [row for row in section.rows if row.label != "lt-st-1"] + [
        row for row in section.rows if row.label == "lt-st-1"
    ]
    gains = gains_of(section, PerUser.of(section))
    row = next(row for row in section.rows if row.label == "genre")
    [said] = what_heads_add(section, row, gains["genre"])
    assert said.startswith(
        "Compared with “lt-st-1” (one head with the same horizon), its heads lose −"
    )
    assert said.endswith("(other settings differ, too: encoder.dropout).")


def test_what_else_differs_from_one_head_of_the_same_horizon_is_said(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    evaluate(
        train(tmp_path / "lt-st-1", small_data, "priors.tree=[]", "training.workers=3"), skill=0.2
    )
    overrides = [
        'priors.tree=["genre"]',
        "encoder.dropout=0.4",
        "loss.gate=1.0",
        "evaluation.calibrated=true",
    ]
    evaluate(train(tmp_path / "genre", small_data, *overrides, heads=19), skill=0.5)
    [section] = sections(find([tmp_path]).results, "one-head")
    facts = dict(next(prior for prior in _advice(section).priors if prior.label == "genre").facts)
    assert facts["Over “lt-st-1”"].endswith(
        ": the effect of the heads and of other settings that differ: encoder.dropout"
    )


@pytest.mark.parametrize(
    ("best", "other", "is_said"), [("many", "few", True), ("few", "many", False)]
)
def test_only_a_model_with_fewer_parameters_is_called_cheaper(
    best, other, is_said, small_data, tmp_path, monkeypatch
):
    heads = {"few": 3, "many": 19}
    trees = {"few": 'priors.tree=["gender"]', "many": 'priors.tree=["genre"]'}
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    for label, skill in ((best, 0.52), (other, 0.5)):
        evaluate(train(tmp_path / label, small_data, trees[label], heads=heads[label]), skill=skill)
    [section] = sections(find([tmp_path]).results, "one-head")
    # On a machine that does other things, the larger model may have been the faster one.
    monkeypatch.setattr(Row, "step_seconds", property(lambda row: 1 / row.heads))
    said = " ".join(_advice(section).summary)
    assert f"Turn on “{best}”" in said
    assert ("Cheaper: “few” gains" in said) == is_said
    assert "Cheaper: “many”" not in said
