"""The first words of a page are what its figures say."""

from dataclasses import replace

import pytest
from made_up import ONE_HEAD, evaluate, train

from torchrec_priors.config import write_override
from torchrec_priors.experiment.statistics import Interval
from torchrec_priors.report.advice import advice
from torchrec_priors.report.gains import gains_of
from torchrec_priors.report.runs import find
from torchrec_priors.report.sections import sections
from torchrec_priors.report.users import PerUser


def _advice(section):
    return advice(section, gains_of(section, PerUser.of(section)))


def test_the_best_prior_is_named_with_its_gain_and_its_cost(section):
    found = _advice(section)
    assert "Turn on “genre-lt-st-2” for everyone" in found.summary[0]
    best = section.rows[[row.label for row in section.rows].index("genre-lt-st-2")]
    gain = best.mean("ndcg@10") - section.baseline.mean("ndcg@10")
    assert f"{gain:+.4f}" in found.summary[0]
    assert found.priors[0].label == "genre-lt-st-2"
    assert found.priors[0].verdict == "better"
    facts = dict(found.priors[0].facts)
    assert "38 heads of 2,432 parameters (+2,432 in all, +148.3%)" in facts["Costs"]
    differ = [key for key, value in best.config.items() if value != section.baseline.config.get(key) and key != "seed"]
    written = " ".join(write_override(key, best.config[key]) for key in differ)
    assert "priors.tree" in differ
    assert facts["Settings"].endswith(f": {written}")
    assert {"By age", "By gender", "By items"} <= set(facts)
    assert any(name.startswith("New interest") for name in facts)


def test_where_nothing_can_be_told_apart_the_page_says_so(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD), skill=0.1)
    evaluate(train(tmp_path / "genre", small_data, 'priors.tree=["genre"]', heads=19), skill=0.1)  # the same lists
    [section] = sections(find([tmp_path]).results, None)
    found = _advice(section)
    assert found.summary[0].startswith("No prior among these runs gains over “one-head” for all users")
    assert found.priors[0].verdict == "open"
    assert "one seed" in found.summary[-1]


def test_what_loses_is_to_be_left_off(section):
    section.baseline, before = next(row for row in section.rows if row.label == "genre-lt-st-2"), section.baseline
    try:
        found = _advice(section)
    finally:
        section.baseline = before
    assert any(said.startswith("Leave off ") and "“lt-st-1”" in said for said in found.summary)
    assert {prior.verdict for prior in found.priors} <= {"worse", "open", "some"}


def test_without_the_data_set_there_are_no_intervals_and_the_page_says_why(section):
    section.missing = "there is no folder"
    try:
        found = advice(section, {})
    finally:
        section.missing = ""
    assert found.priors == []
    assert "no intervals: there is no folder" in found.summary[0]


def test_one_head_alone_is_nothing_to_turn_on(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    [section] = sections(find([tmp_path]).results, None)
    assert "nothing to turn on" in _advice(section).summary[0]


def test_a_gain_of_the_horizon_is_not_said_to_be_one_of_the_heads(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    evaluate(train(tmp_path / "lt-st-1", small_data, "priors.tree=[]"), skill=0.5)
    evaluate(train(tmp_path / "genre", small_data, 'priors.tree=["genre"]', heads=19), skill=0.5)  # the same lists
    [section] = sections(find([tmp_path]).results, "one-head")
    section.rows.sort(key=lambda row: row.label)  # the heads first, as both gain alike
    summary = _advice(section).summary
    assert "Turn on “genre” for everyone" in summary[0]
    assert "longer horizon's doing: over “lt-st-1”" in summary[1]


def _with_rivals(data, folder, skills):
    """A prior that gains, a re-ranking of it, and rivals as good as they are said to be."""
    models = {
        "one-head": (ONE_HEAD, 0.1),
        "genre": (['priors.tree=["genre"]', "model.horizon=1"], 0.5),
        "sasrec": ([*ONE_HEAD, "encoder.backbone=sasrec"], skills["sasrec"]),
        "remi": ([*ONE_HEAD, "baseline.name=remi"], skills["remi"]),
    }
    for name, (overrides, skill) in models.items():
        evaluate(train(folder / name, data, *overrides), skill=skill)
    [section] = sections(find([folder]).results, None)
    return section


def test_the_best_prior_is_placed_among_all_rivals_with_intervals(small_data, tmp_path):
    section = _with_rivals(small_data, tmp_path, {"sasrec": 0.2, "remi": 0.1})
    gains = gains_of(section, PerUser.of(section))
    rows = {row.label: row for row in section.rows}
    for over in gains["genre"].of_rivals:
        gap = rows["genre"].mean("ndcg@10") - rows[over.row.label].mean("ndcg@10")
        assert over.ndcg.mean == pytest.approx(gap)
        assert over.ndcg.low < gap < over.ndcg.high
    assert {over.row.label for over in gains["genre"].of_rivals} == {"sasrec", "remi"}
    assert not gains["sasrec"].of_rivals
    found = advice(section, gains)
    assert "“genre” is above all 2 rivals, the nearest of them “sasrec” (ndcg@10 +" in found.summary[1]


def test_a_rival_that_is_better_than_the_best_prior_is_named_as_such(small_data, tmp_path):
    found = _advice(_with_rivals(small_data, tmp_path, {"sasrec": 0.9, "remi": 0.5}))
    assert "“genre” cannot be told from “remi”" in found.summary[1]
    assert "is below “sasrec” (ndcg@10 −" in found.summary[1]
    assert dict(found.priors[0].facts)["Against rivals"] in found.summary[1]


def test_a_more_diverse_list_at_no_loss_is_advised(section):
    reranked = next(row for row in section.rows if row.label == "genre averaged")
    gains = gains_of(section, PerUser.of(section))
    before, reranked.variant = reranked.variant, replace(reranked.variant, adjusted=True)
    entropy = gains[reranked.label].overall["entropy@10"]
    try:
        for more, said in ((9.0, True), (-9.0, False)):
            gains[reranked.label].overall["entropy@10"] = Interval(more, more - 0.1, more + 0.1)
            summary = advice(section, gains).summary
            assert any(f"More diverse at no loss: “{reranked.label}”" in each for each in summary) == said
    finally:
        reranked.variant, gains[reranked.label].overall["entropy@10"] = before, entropy


def test_what_else_differs_from_one_head_of_the_same_horizon_is_said(small_data, tmp_path):
    evaluate(train(tmp_path / "one-head", small_data, *ONE_HEAD))
    evaluate(train(tmp_path / "lt-st-1", small_data, "priors.tree=[]"), skill=0.2)
    evaluate(train(tmp_path / "genre", small_data, 'priors.tree=["genre"]', "encoder.dropout=0.4", heads=19), skill=0.5)
    [section] = sections(find([tmp_path]).results, "one-head")
    facts = dict(next(prior for prior in _advice(section).priors if prior.label == "genre").facts)
    assert facts["Over “lt-st-1”"].endswith(": what the heads add together with what else differs: encoder.dropout")
