"""Recommendations with levers are the best of all items, scored head by head, filtered and counted one by one."""

import dataclasses
import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
import tiny
from e2e.command_line import app
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.conftest import SETTINGS

from torchrec_priors import load_run
from torchrec_priors.apps import command, recommend
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError

HISTORY = [5, 50, 7]
TERMS = ["short-term", "long-term"]
GENRES = ["Comedy", "Drama", "Thriller", "War", "Children's"]
PATHS = [f"{term} / {genre}" for term, genre in itertools.product(TERMS, GENRES)]
NAMES = [*TERMS, *GENRES, *PATHS, "temporal: short-term", "genre: Comedy"]


@pytest.fixture(scope="module")
def loaded(run):
    with load_run(run) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def everything(loaded):
    """Every item that HISTORY has not seen, with the scores of all its heads."""
    return loaded.recommend(HISTORY, k=150)


def _is(head, name):
    """Whether a name stands for a head."""
    term, genre = head.split(" / ")
    return name in (head, term, genre, f"temporal: {term}", f"genre: {genre}")


def _slow(everything, k, only=None, mute=(), boost=None, at_least=None):
    """(score, item, groups, scores of heads) of the best list, with a share of one group at most."""
    boost, need = (
        boost or {},
        {name: math.ceil(share * k - 1e-9) for name, share in (at_least or {}).items()},
    )
    scored = []
    for item in everything:
        heads = {
            head: score + sum(math.log(x) for name, x in boost.items() if _is(head, name))
            for head, score in item.head_scores.items()
            if (only is None or any(_is(head, name) for name in only))
            and not any(_is(head, name) for name in mute)
        }
        if heads:
            groups = frozenset(
                name for name in need if any(_is(head, name) for head in item.head_scores)
            )
            scored.append((max(heads.values()), item.item_id, groups, heads))
    scored.sort(key=lambda item: -item[0])
    for some in need:
        need[some] = min(need[some], sum(some in item[2] for item in scored))
    chosen = []
    for item in scored:  # for one group; tests/serving/test_choice.py has several
        left = sum(need.values()) - sum(len(other[2]) for other in [*chosen, item])
        if len(chosen) < k and left <= k - len(chosen) - 1:
            chosen.append(item)
    return chosen


def test_without_levers_nothing_changes(loaded, everything):
    assert loaded.recommend(HISTORY, mute=[], boost={}, at_least={}, k=150) == everything
    assert loaded.recommend(HISTORY, boost={"Comedy": 1}, k=150) == everything


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_equals_the_definition(loaded, everything, data):
    name = st.sampled_from(NAMES)
    levers = {"only": data.draw(st.none() | st.lists(name, min_size=1, max_size=3)),
              "mute": data.draw(st.lists(name, max_size=2)),
              "boost": data.draw(st.dictionaries(name, st.floats(0.01, 100), max_size=3))}  # fmt: skip
    k = data.draw(st.integers(1, 30))
    if data.draw(st.booleans()):
        levers["at_least"] = {
            data.draw(st.sampled_from([*GENRES, *PATHS])): data.draw(st.floats(0.01, 1))
        }
    expected = _slow(everything, k, **levers)
    if not expected:
        with pytest.raises(UserError, match="no head is left"):
            loaded.recommend(HISTORY, k=k, **levers)
        return
    found = loaded.recommend(HISTORY, k=k, **levers)
    assert len(found) == len(expected)
    scores = {
        item_id: (score, heads) for score, item_id, _, heads in _slow(everything, 150, **levers)
    }
    for item, (score, *_) in zip(found, expected, strict=True):
        assert item.score == pytest.approx(score, abs=1e-4)
        best, heads = scores[item.item_id]
        assert item.score == pytest.approx(best, abs=1e-4)
        assert item.head_scores == pytest.approx(heads, abs=1e-4), (
            "heads that may not answer are not named"
        )
        assert item.head_scores[item.head] == item.score
    for name, share in levers.get("at_least", {}).items():
        of_group = [
            any(_is(head, name) for head in everyones.head_scores) for everyones in everything
        ]
        ids = {item.item_id for item, mine in zip(everything, of_group, strict=True) if mine}
        asked = math.ceil(share * k - 1e-9)
        assert sum(item.item_id in ids for item in found) >= min(asked, len(ids & set(scores)))


def test_shares_of_overlapping_groups(loaded, everything):
    found = loaded.recommend(HISTORY, k=8, at_least={"Comedy": 0.5, "Drama": 0.5})
    for genre in ("Comedy", "Drama"):
        assert sum(any(_is(head, genre) for head in item.head_scores) for item in found) >= 4
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert found[0] == everything[0]
    assert found != everything[:8], "the shares show nothing"


def test_groups_that_have_too_few_are_said(loaded, everything, caplog):
    comedies = [
        item for item in everything if any(_is(head, "Comedy") for head in item.head_scores)
    ]
    allow = [
        item.item_id
        for item in comedies[:2] + [item for item in everything if item not in comedies]
    ]
    with caplog.at_level("WARNING", logger="torchrec_priors"):
        found = loaded.recommend(HISTORY, k=10, at_least={"Comedy": 0.7}, allow=allow)
    assert {item.item_id for item in comedies[:2]} < {item.item_id for item in found}
    assert len(found) == 10
    assert (
        "at-least: fewer items of 'Comedy' in the list, because not enough of them may be recommended"
        in caplog.text
    )
    caplog.clear()
    assert loaded.recommend(HISTORY, k=10, at_least={"Comedy": 0.7})
    assert not caplog.records


def test_a_boost_of_muted_heads_is_said(loaded, caplog):
    with caplog.at_level("WARNING", logger="torchrec_priors"):
        loaded.recommend(HISTORY, only=["long-term"], boost={"short-term / Drama": 2, "Drama": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "boost: 'short-term / Drama' changes nothing, as none of its heads may answer"
    ]


@pytest.mark.parametrize(
    ("levers", "says"),
    [
        ({"only": ["Comdy"]}, "only: no head is named 'Comdy': did you mean 'Comedy'?"),
        ({"mute": ["short / Comedy"]}, "mute: no head is named 'short / Comedy'"),
        ({"only": "Comedy"}, "only: 'Comedy' is one name: give a list of names"),
        ({"only": []}, "only: it is empty"),
        ({"mute": ["short-term", "long-term"]}, "no head is left"),
        ({"only": ["Comedy"], "mute": ["Comedy"]}, "no head is left"),
        ({"boost": {"Comedy": 0}}, "boost: 'Comedy' = 0 must be a number above 0"),
        ({"boost": {"Comedy": math.inf}}, "boost: 'Comedy' = inf"),
        ({"boost": {"Comedy": "2"}}, "boost: 'Comedy' = 2"),
        ({"at_least": {"Comedy": 1.1}}, "at-least: 'Comedy' = 1.1 must be a share"),
        ({"at_least": {"Comedy": 0.0}}, "at-least: 'Comedy' = 0.0"),
        ({"at_least": {"short-term": 0.5}}, "at-least: 'short-term' does not restrict items"),
        ({"at_least": dict.fromkeys(["no genre", *GENRES], 0.1)}, "at-least: 6 groups: give 5 at most"),
        ({"at_least": {"no genre": 0.6, "Comedy": 0.6}},
         "'no genre' 6, 'Comedy' 6 take 12 items together, more than k = 10"),
    ],
)  # fmt: skip
def test_mistakes_in_python(loaded, levers, says):
    with pytest.raises(UserError) as caught:
        loaded.recommend_many([HISTORY], **levers)
    assert says in str(caught.value)


def test_lists_and_levers_that_leave_nothing_together(loaded, everything):
    allow = [
        item.item_id
        for item in everything
        if not any(_is(head, "Comedy") for head in item.head_scores)
    ]
    with pytest.raises(UserError, match="retrieve none of the items that are allowed"):
        loaded.recommend(HISTORY, only=["Comedy"], allow=allow)


def test_threads_with_levers_of_their_own(loaded, everything):
    wanted = [{"only": [genre], "at_least": {genre: 1}} for genre in GENRES] + [{}] * 3
    alone = [loaded.recommend(HISTORY, **levers) for levers in wanted]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda levers: loaded.recommend(HISTORY, **levers), wanted))
    assert together == alone
    assert together[-1] == everything[:10]


@pytest.fixture(scope="module")
def groups_run(trained):
    """A run with heads for groups of users, whose scores are averaged."""
    priors = {"tree": ["gender", "genre"]}
    return trained(parse(tiny.merged(SETTINGS, priors=priors, evaluation={"fusion": "mean"})))


def test_heads_of_groups_of_users(groups_run, small_raw, capsys, tmp_path):
    women = {
        line.split("|")[0]
        for line in (small_raw / "u.user").read_text().splitlines()
        if line.split("|")[2] == "F"
    }
    with load_run(groups_run) as loaded:
        assert {
            head
            for item in loaded.recommend(HISTORY)
            for head in item.head_scores
            if head.startswith("M")
        }
        for item in loaded.recommend(HISTORY, only=["gender: F"]):
            assert {head.split(" / ")[0] for head in item.head_scores} == {"F"}
        users = loaded.data.user_texts().to_pylist()
        woman = next(user for user in users if user in women)
        assert loaded.recommend(user=woman, only=["F"]) == loaded.recommend(user=woman)
        with pytest.raises(UserError, match="groups that this user is not in"):
            loaded.recommend(user=woman, only=["M"])
    _, out, _ = _app(
        capsys, "--run", groups_run, "--users", "all", "--out", tmp_path / "out", "--only", "F"
    )
    for row in pq.read_table(tmp_path / "out").to_pylist():
        assert len(row["items"]) == (10 if str(row["user_id"]) in women else 0)
    men = sum(user not in women for user in users)
    assert f"({men} users got fewer, because" in out


def test_a_mean_is_one_of_the_heads_that_may_answer(groups_run):
    with load_run(groups_run) as loaded:
        everything = loaded.recommend(HISTORY, k=150)
        for item in everything:
            assert item.score == pytest.approx(
                sum(item.head_scores.values()) / len(item.head_scores), abs=1e-5
            )
            assert item.head_scores[item.head] == pytest.approx(
                max(item.head_scores.values()), abs=1e-5
            )
        expected = {}
        for item in everything:
            scores = [score + math.log(3) * (head == "F / Drama") for head, score in item.head_scores.items()
                      if not head.endswith("Comedy")]  # fmt: skip
            if scores:
                expected[item.item_id] = sum(scores) / len(scores)
        found = loaded.recommend(HISTORY, k=150, mute=["Comedy"], boost={"F / Drama": 3})
        assert {item.item_id: item.score for item in found} == pytest.approx(expected, abs=1e-4)


def _app(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        command.run(recommend.recommend, [str(argument) for argument in arguments])
    return ended.value.code, *capsys.readouterr()


LEVERS = ["--only", "long-term", "--only", "short-term / Drama", "--mute", "genre: War", "--boost", "Drama=2",
          "--boost", "long-term=0.5", "--at-least", "Comedy=.3", "--at-least", "Thriller=0.4"]  # fmt: skip
CALL = {"only": ["long-term", "short-term / Drama"], "mute": ["genre: War"], "boost": {"Drama": 2, "long-term": 0.5},
        "at_least": {"Comedy": 0.3, "Thriller": 0.4}}  # fmt: skip


def test_the_app_and_python_give_the_same(run, loaded, capsys):
    code, out, _ = _app(capsys, "--run", run, "--user", 9, *LEVERS, "--json")
    assert code == 0
    assert json.loads(out)["items"] == [
        dataclasses.asdict(item) for item in loaded.recommend(user=9, **CALL)
    ]


@pytest.mark.slow
def test_two_ranks_write_the_same_bytes_in_bulk_and_each_user_gets_what_one_alone_gets(
    run, loaded, capsys, tmp_path
):
    arguments = ["--run", run, "--users", "all", "-k", 7, *LEVERS, "--at-least", "no genre=.15"]
    code, out, _ = _app(capsys, *arguments, "--out", tmp_path / "one")
    assert code == 0
    done = app("recommend", *arguments, "--out", tmp_path / "two", ranks=2)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    call = {**CALL, "at_least": {**CALL["at_least"], "no genre": 0.15}}
    for row in pq.read_table(tmp_path / "one").to_pylist()[::9]:
        alone = loaded.recommend(user=row["user_id"], k=7, **call)
        assert [item.item_id for item in alone] == row["items"]
        assert [item.score for item in alone] == row["scores"]
        assert [item.head for item in alone] == row["heads"]
    said = [line for line in out.splitlines() if "users have fewer of" in line]
    assert said == [line for line in done.stdout.splitlines() if "users have fewer of" in line]


def test_bulk_says_how_many_users_have_fewer_of_a_group(run, loaded, small_data, capsys, tmp_path):
    films = [item.item_id for item in loaded.recommend([5], k=150, only=["no genre"])]
    (tmp_path / "deny").write_text("".join(f"{film}\n" for film in films[:-1]))
    _, out, _ = _app(capsys, "--run", run, "--users", "all", "--out", tmp_path / "out", "-k", 10,
                     "--deny", tmp_path / "deny", "--at-least", "no genre=.1")  # fmt: skip
    rows = pq.read_table(tmp_path / "out").to_pylist()
    short = sum(films[-1] not in row["items"] for row in rows)
    assert 0 < short < len(rows)
    assert f"{short} users got fewer items of 'no genre' than requested" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only", "Comdy"], ["only", "did you mean 'Comedy'?"]),
        (["--boost", "Comedy"], ["--boost: 'Comedy' has no number"]),
        (["--boost", "Comedy=much"], ["--boost: 'much' in 'Comedy=much' is not a number"]),
        (["--boost", "Comedy=nan"], ["boost: 'Comedy' = nan"]),
        (["--boost", "Comedy=2", "--boost", "Comedy=3"], ["--boost: 'Comedy' is given twice"]),
        (["--at-least", "Comedy=30"], ["at-least: 'Comedy' = 30.0"]),
        (["--at-least", "long-term=.3"], ["at-least: 'long-term' does not restrict items"]),
        (["--mute", "long-term", "--mute", "short-term"], ["no head is left"]),
    ],
)
@pytest.mark.parametrize(
    "whom", [["--user", "9"], ["--users", "all", "--out", "out"]], ids=["one", "many"]
)
def test_mistakes_on_the_command_line(run, capsys, tmp_path, monkeypatch, whom, options, says):
    monkeypatch.chdir(tmp_path)
    code, _, error = _app(capsys, "--run", run, *whom, *options)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for words in says:
        assert words in error
    assert not list(tmp_path.iterdir())
