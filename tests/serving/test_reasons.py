"""Reasons in words: what they say for every kind of prior, and that the data bears it out."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tiny
import torch

import torchrec_priors as tp
from torchrec_priors import UserContext, load_run
from torchrec_priors.apps import prior, recommend
from torchrec_priors.common.files import read_json
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.priors.name_groups import name_groups
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.priors.load import load_prior
from torchrec_priors.priors.prior import kind_of
from torchrec_priors.serving.reasons import LIKED, Facts, Label, Reasons
from torchrec_priors.serving.request import Request
from torchrec_priors.serving.score_names import score_name
from torchrec_priors.settings.evaluation import RetrievalConfig

HISTORY = [5, 50, 7]
LEVELS = {
    "genre": SimpleNamespace(name="genre", kind="item", restricts_items=True),
    "mood": SimpleNamespace(name="mood", kind="item", restricts_items=True, words="{} films"),
    "community": SimpleNamespace(name="community", kind="graph", restricts_items=True),
    "gender": SimpleNamespace(name="gender", kind="user", restricts_items=False),
    "segment": SimpleNamespace(
        name="segment", kind="user", restricts_items=False, words="{} shoppers"
    ),
    "action": SimpleNamespace(name="action", kind="event", restricts_items=True),
    "stars": SimpleNamespace(
        name="stars", kind="event", restricts_items=True, words="a rating of {}"
    ),
    "halves": SimpleNamespace(name="temporal", kind="temporal", restricts_items=False, length=4),
    "steps": SimpleNamespace(name="temporal", kind="temporal", restricts_items=False, length=1),
    "random:genre": SimpleNamespace(name="random:genre", kind="random", restricts_items=True),
    "interests": SimpleNamespace(name="interests", kind="interests", restricts_items=False),
    "own": SimpleNamespace(name="own", restricts_items=False),
    "own labels": SimpleNamespace(name="own", restricts_items=True),
    "own users": SimpleNamespace(name="club", restricts_items=False, groups_of_users=None),
}
FOUR_OF_NINE = Facts(history=9, inside=4)
KNOWN = frozenset({0, 1, 2})


def _reason(path, facts):
    """The reason of a path that goes through one group of each of some levels."""
    levels = []
    for name, group in path:
        level = SimpleNamespace(**vars(LEVELS[name]))
        level.groups = [group]
        if level.name == "temporal":
            level.groups = [""] * (group + 1)
        levels.append(level)
    numbers = [group if name in ("halves", "steps") else 0 for name, group in path]
    tree = SimpleNamespace(levels=levels, groups_at=lambda number: torch.tensor([numbers[number]]))
    return Reasons(tree).of_path(0, facts)


@pytest.mark.parametrize(
    ("path", "facts", "says"),
    [
        ([], Facts(), "it fits your history"),
        ([("genre", "Comedy")], FOUR_OF_NINE, "you like Comedy (4 of the 9 items in your history)"),
        ([("genre", "Comedy")], Facts(history=1200, inside=LIKED - 1), "you have had Comedy before (2 of the 1,200 items in your history)"),
        ([("genre", "Comedy")], Facts(history=9), "your history leads to Comedy, new to you"),
        ([("genre", "{}")], FOUR_OF_NINE, "you like {} (4 of the 9 items in your history)"),
        ([("mood", "dark")], FOUR_OF_NINE, "you like dark films (4 of the 9 items in your history)"),
        ([("genre", "no genre")], FOUR_OF_NINE, "you like items of the group “no genre” (genre) (4 of the 9 items in your history)"),
        ([("segment", "unknown segment")], Facts(), "it suits users of the group “unknown segment” (segment)"),
        ([("community", "Drama, War")], FOUR_OF_NINE, "you like the community “Drama, War” of items that the same people choose (4 of the 9 items in your history)"),
        ([("genre", "Comedy"), ("mood", "dark")], FOUR_OF_NINE, "you like what belongs to Comedy and dark films at once (4 of the 9 items in your history)"),
        ([("gender", "F")], Facts(known_levels=KNOWN), "it suits users of the group “F” (gender) like you"),
        ([("gender", "F")], Facts(), "it suits users of the group “F” (gender)"),
        ([("segment", "Premium")], Facts(known_levels=KNOWN), "it suits Premium shoppers like you"),
        ([("halves", 0)], Facts(), "it fits your history, expected within the next 4 items"),
        ([("halves", 1)], Facts(), "it fits your history, expected within the next 5 to 8 items"),
        ([("steps", 0)], Facts(), "it fits your history, expected as the next item"),
        ([("steps", 2)], Facts(), "it fits your history, expected as item 3 from now"),
        ([], Facts(history=272, label=Label("Comedy films", 44)), "it fits your history (Comedy films, like 44 of its 272 items)"),
        ([("halves", 0)], Facts(history=9, label=Label("Comedy", 1)), "it fits your history (Comedy, like 1 of its 9 items), expected within the next 4 items"),
        ([("halves", 1)], Facts(history=9, label=Label("Comedy", 0)), "it fits your history (Comedy, new to you), expected within the next 5 to 8 items"),
        # A head that says something about the item or the user needs no label.
        ([("gender", "F")], Facts(history=9, label=Label("Comedy", 1)), "it suits users of the group “F” (gender)"),
        ([("genre", "Comedy")], Facts(history=9, inside=4, label=Label("Comedy", 4)), "you like Comedy (4 of the 9 items in your history)"),
        ([("action", "purchase")], Facts(), "it fits your history; the event “purchase” is expected"),
        ([("stars", "5 stars"), ("halves", 0)], Facts(), "it fits your history; a rating of 5 stars is expected within the next 4 items"),
        # Which items had an event is not what the history has, so no count is given.
        ([("genre", "Comedy"), ("action", "purchase")], FOUR_OF_NINE, "your history leads to Comedy; the event “purchase” is expected"),
        ([("halves", 0), ("segment", "Premium"), ("genre", "Comedy")], Facts(history=9, inside=4, known_levels=KNOWN), "you like Comedy (4 of the 9 items in your history) and it suits Premium shoppers like you, expected within the next 4 items"),
        ([("random:genre", "random 3")], FOUR_OF_NINE, "it fits the control group “random 3”, which has no meaning"),
        ([("genre", "Comedy"), ("random:genre", "random 3")], FOUR_OF_NINE, "your history leads to Comedy and it fits the control group “random 3”, which has no meaning"),
        ([("interests", "interest 2")], Facts(), "it fits an interest that the model sees in your history (interest 2)"),
        ([("own", "late night")], Facts(), "it fits the group “late night”"),
        ([("own labels", "cheap")], FOUR_OF_NINE, "you like cheap (4 of the 9 items in your history)"),
        ([("own users", "gold")], Facts(), "it suits users of the group “gold” (club)"),
    ],
)  # fmt: skip
def test_a_head_is_put_into_words(path, facts, says):
    assert _reason(path, facts) == f"because {says}"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ([], "it is popular"),
        ([("halves", 0)], "it is popular"),
        (
            [("genre", "Comedy"), ("gender", "F")],
            "it is popular in Comedy with users of the group “F” (gender)",
        ),
        ([("action", "purchase")], "it is popular, counting only the event “purchase”"),
    ],
)
def test_without_a_history_the_words_are_of_popularity(path, says):
    assert _reason(path, Facts("popularity")) == f"because {says}"


def test_a_repeat_says_how_often():
    tree = SimpleNamespace(levels=[])
    assert Reasons(tree).of_repeat(Facts(times=1)) == "because you have had it before"
    assert Reasons(tree).of_repeat(Facts(times=3)) == "because you have had it before, 3 times"


@pytest.mark.parametrize(
    ("fusion", "calibrated", "says"),
    [
        ("max", False, "logit by the best head"),
        ("max", True, "log-probability by the best head"),
        ("mean", False, "mean logit by all heads"),
        ("mean", True, "log-probability by all heads together"),
        ("hierarchical", False, "mean logit by the best head of each segment or level"),
        ("hierarchical", True, "log of the mean probability by the best head of each segment or level"),
        ("inverse_variance", False, "weighted mean logit by all heads"),
        ("inverse_variance", True, "log of the weighted mean probability by all heads"),
    ],
)  # fmt: skip
def test_scores_are_named(fusion, calibrated, says):
    config = RetrievalConfig(fusion=fusion)
    given = {"heads": 4, "score": "dot", "calibrated": calibrated, "joint": False}
    assert score_name(config, **given) == says
    alone = score_name(config, **{**given, "heads": 1})
    assert alone == ("log-probability" if calibrated else "logit")
    assert "logit" not in score_name(config, **given, source="popularity")
    if not calibrated:
        assert "scaled cosine" in score_name(config, **{**given, "score": "cosine"})
        assert "logit" in score_name(config, **{**given, "score": "cosine", "joint": True})


def test_scores_with_an_estimated_denominator_say_so():
    config = RetrievalConfig(normaliser_rows=64)
    given = {"heads": 1, "score": "dot", "calibrated": True, "joint": False}
    assert score_name(config, **given) == "estimated log-probability"


def _genres(data):
    """For each row id, the names of its genres."""
    groups = data.manifest.prior("genre").groups
    names = {}
    for row, group in zip(*data.prior_pairs("genre", "item"), strict=True):
        names.setdefault(int(row), set()).add(groups[group])
    return names


def test_the_counts_are_those_of_the_history(run):
    with load_run(run) as loaded:
        genres = _genres(loaded.data)
        for user in ("9", "12"):
            rows = loaded.find_user(user).items.tolist()
            answer = loaded.recommend(user=user, k=100)
            assert answer.score_name == "logit by the best head"
            for item in answer:
                term, genre = item.head.split(" / ")
                count = sum(genre in genres.get(row, ()) for row in rows)
                called = f"{genre} films"
                if genre == "no genre":
                    called = "items of the group “no genre” (genre)"
                assert (f"you like {called} (" in item.reason) == (count >= LIKED)
                assert (f"({count} of the {len(rows)} items in your history)" in item.reason) == (
                    count > 0
                )
                when = (
                    "within the next 2 items" if term == "short-term" else "the next 3 to 4 items"
                )
                assert item.reason.endswith(when)
                assert item.head_score == item.score
        cold = loaded.recommend(user="nobody", k=5)
        assert cold.score_name == "log-probability of popularity by the best head"
        for item in cold:
            assert item.reason == f"because it is popular in {item.head.split(' / ')[1]} films"


@pytest.fixture(scope="module")
def plain_run(trained):
    """A run whose heads are segments of time, as those of a first run."""
    return trained(parse(tiny.settings(priors={"tree": ["temporal:2"]}, training={"steps": 2})))


def test_a_head_that_says_nothing_of_items_names_the_label_that_most_of_the_history_has(plain_run):
    with load_run(plain_run) as loaded:
        genres = _genres(loaded.data)
        rows = loaded.find_user("9").items.tolist()
        answer = loaded.recommend(user="9", k=100)
        row_of = {str(one): row for row, one in enumerate(loaded.catalogue.ids.to_pylist())}
        new = 0
        for item in answer:
            counts = [
                (sum(genre in genres.get(row, ()) for row in rows), genre)
                for genre in genres[row_of[str(item.item_id)]]
                if genre != "no genre"
            ]
            inside = max((count for count, _ in counts), default=0)
            best = {genre for count, genre in counts if count == inside}
            said = item.reason.removeprefix("because it fits your history").partition(", expected")
            expected = {
                f" ({genre} films, like {inside} of its {len(rows)} items)" for genre in best
            }
            if not inside:
                expected = {f" ({genre} films, new to you)" for genre in best} or {""}
                new += 1
            assert said[0] in expected
        assert 0 < new < len(answer)


def test_a_data_set_without_labels_says_why_reasons_name_none(tmp_path, trained, capsys):
    (tmp_path / "log.csv").write_text(
        "user,item,time\n"
        + "".join(
            f"u{user},i{(user * 3 + step) % 30},{1_700_000_000 + step}\n"
            for user in range(20)
            for step in range(12)
        )
    )
    columns = {"user": "user", "item": "item", "time": "time"}
    data = tp.prepare(table=tmp_path / "log.csv", **columns, horizon=4, out=tmp_path / "data")
    fast = {"priors": {"tree": ["temporal:2"]}, "training": {"steps": 2}}
    run = tp.train(parse(tiny.settings(**fast)), data, tmp_path / "run", progress=False)
    recommend.recommend(str(run.path), user="u3", k=2)
    out = capsys.readouterr().out
    assert "because it fits your history, expected" in out
    assert "reasons cannot say what the items are" in out
    assert "prepare it with --label" in out

    (tmp_path / "allowed").write_text("i9\n")  # the first item of this user
    recommend.recommend(str(run.path), user="u3", k=2, allow=tmp_path / "allowed")
    assert "no item is left to recommend" in capsys.readouterr().out
    recommend.recommend(str(run.path), user="nobody", k=2)
    out = capsys.readouterr().out
    assert "these are popular items" in out
    assert "last 0 of" not in out


def test_who_is_not_asked_to_explain_gives_no_reason(run):
    with load_run(run) as loaded:
        request = Request(UserContext(user="9"), explain=False)
        assert {(item.reason, item.head_score) for item in loaded.recommended(request)} == {
            ("", None)
        }


ADDITIVE = tiny.settings(
    priors={"tree": ["temporal:2", "gender", "rating"], "composition": "additive"},
    table={"init_std": 1.0},
    training={"steps": 2},
    evaluation={"fusion": "mean"},
)


def test_the_winner_of_a_mean_has_a_score_of_its_own(trained):
    with load_run(trained(parse(ADDITIVE))) as loaded:
        known = loaded.recommend(user="9", k=50)
        assert known.score_name == "mean logit by all heads"
        for item in known:
            assert item.head_score == item.head_scores[item.head]
            assert item.head_score == pytest.approx(max(item.head_scores.values()), abs=1e-5)
            assert item.score < item.head_score

        gender = {item.head for item in known} & {"F", "M"}
        said = {item.reason for item in known if item.head in gender}
        assert said == {
            f"because it suits users of the group “{one}” (gender) like you" for one in gender
        }
        # Of a history alone, no group is known.
        history = loaded.recommend(HISTORY, k=150)
        said = {item.reason for item in history if item.head in ("F", "M")}
        assert said
        assert not [reason for reason in said if "like you" in reason]
        given = loaded.recommend(HISTORY, k=50, groups={"gender": "F"}, only=["F"])
        assert {item.reason for item in given} == {
            "because it suits users of the group “F” (gender) like you"
        }


def test_groups_are_called_what_the_data_set_says_also_after_training(run, small_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    before = (data / "manifest.json").read_bytes()
    usual = PreparedData(small_data).manifest.prior("genre").words
    assert name_groups(data, "genre", "the {} shelf").words == "the {} shelf"
    with load_run(run, data) as loaded:
        item = loaded.recommend(user="9", k=1)[0]
        assert f" the {item.head.split(' / ')[1]} shelf" in item.reason
    name_groups(data, "genre", "")
    assert "words" not in next(
        one
        for one in read_json(data / "manifest.json", remedy="")["priors"]
        if one["name"] == "genre"
    )
    name_groups(data, "genre", usual)
    assert (data / "manifest.json").read_bytes() == before

    for words, message in (
        ("films", "must have {} once"),
        ("{} and {}", "must have {} once"),
        ("{}\n", "one line"),
        ("{}" + "x" * 100, "at most 100"),
    ):
        with pytest.raises(UserError, match=message):
            name_groups(data, "genre", words)
    with pytest.raises(UserError, match="did you mean 'genre'"):
        name_groups(data, "genres", "{} films")


@pytest.mark.parametrize(
    ("specification", "kind"),
    [("genre", "item"), ("gender", "user"), ("rating", "event"), ("temporal:2", "temporal"), ("random:genre", "random"),
     ("random:gender", "random"), ("random:4", "random"), ("random:temporal:2", "random"), ("all:2", "all"), ("interests:2", "interests")],
)  # fmt: skip
def test_priors_know_their_kind(small_data, specification, kind):
    assert kind_of(load_prior(specification, PreparedData(small_data), 4)) == kind


def test_a_long_history_is_counted_once_for_each_time(run):
    with load_run(run) as loaded:
        once = loaded.recommend([5], k=150)
        often = loaded.recommend([5] * 40, k=150)
        assert not [item for item in once if "you like" in item.reason]
        liked = [item for item in often if "you like" in item.reason]
        assert liked
        assert all("(40 of the 40 items in your history)" in item.reason for item in liked)


def test_the_table_says_why_and_what_the_scores_are(run, trained, capsys):
    recommend.recommend(run, user="9", k=3)
    lines = capsys.readouterr().out.splitlines()
    assert "score: logit by the best head" in lines
    first = next(number for number, line in enumerate(lines) if line.startswith("   1 "))
    with load_run(run) as loaded:
        items = loaded.recommend(user="9", k=3)
    shown = [line.strip() for line in lines[first + 1 : first + 6 : 2]]
    assert shown == [item.reason for item in items]
    assert f" {items[0].head}  (then " in lines[first]

    recommend.recommend(trained(parse(ADDITIVE)), user="9", k=1)
    with load_run(trained(parse(ADDITIVE))) as loaded:
        [item] = loaded.recommend(user="9", k=1)
    out = capsys.readouterr().out
    assert f"{item.score:>8.3f}  {item.head} {item.head_score:.2f}  (then " in out

    recommend.recommend(run, user="9", k=2, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["score_name"] == "logit by the best head"
    assert [item["reason"] for item in answer["items"]] == [item.reason for item in items[:2]]
    assert {"item_id", "title", "score", "head", "head_scores", "head_score"} < set(
        answer["items"][0]
    )


def test_words_are_given_by_the_command_and_from_python(small_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    prior.prior(prior.Kind.words, str(data), name="rating", words="a rating of {}")
    assert capsys.readouterr().out.endswith(", called 'a rating of {}'\n")
    assert tp.name_groups(data, "gender", "gender {}").manifest.prior("gender").words == "gender {}"
    prior.prior(prior.Kind.list, str(data))
    assert capsys.readouterr().out.count("called '") == 4, "two of them are the corpus' own"
    for kind, words in ((prior.Kind.words, None), (prior.Kind.item, "{} films")):
        with pytest.raises(UserError, match="--words says what the groups"):
            prior.prior(kind, str(data), name="rating", words=words)
