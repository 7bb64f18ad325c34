"""Lists made diverse by `evaluate`, on any number of ranks, on a run that knows nothing of it; and in serving."""

import itertools
import json
import shutil

import pyarrow.parquet as pq
import pytest
from e2e.command_line import app

from torchrec_priors import load_run
from torchrec_priors.apps import command, evaluate
from torchrec_priors.config import load_config
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.retrieval.diversify import diversify_reference
from torchrec_priors.training.run.config_file import write_config

WEIGHT = 0.4


@pytest.fixture(scope="module")
def diverse(run, tmp_path_factory):
    """The same run with `evaluation.diversify`, as if it had been trained so."""
    folder = tmp_path_factory.mktemp("diverse") / "run"
    shutil.copytree(run, folder)
    config = load_config(folder / "config.toml", [f"evaluation.diversify={WEIGHT}"])
    write_config(folder / "config.toml", config)
    return folder


@pytest.fixture(scope="module")
def genres(small_data):
    data = PreparedData(small_data)
    found = {item: [] for item in data.catalogue(["item_id"])["item_id"].to_pylist()}
    ids = list(found)
    for row, genre in zip(*data.prior_pairs("genre", "item"), strict=True):
        found[ids[row]].append(int(genre))
    return found


@pytest.mark.slow
def test_evaluation_reranks_what_was_found_on_any_number_of_ranks(run, genres, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    given = ("--run", folder, "--split", "test", "--name")
    app("evaluate", *given, "two", f"evaluation.diversify={WEIGHT}", ranks=2)
    for name, weight in (("plain", 0.0), ("one", WEIGHT)):
        with pytest.raises(SystemExit) as ended:
            command.run(
                evaluate.evaluate,
                [str(text) for text in (*given, name, f"evaluation.diversify={weight}")],
            )
        assert ended.value.code == 0
    lists = {}
    for name in ("plain", "one", "two"):
        lists[name] = pq.read_table(folder / "eval" / f"test-{name}" / "predictions.parquet")
    assert lists["two"].equals(lists["one"])
    pairs = zip(lists["plain"].to_pylist(), lists["one"].to_pylist(), strict=True)
    for plain, made in itertools.islice(pairs, 0, None, 10):
        order = diversify_reference(
            plain["scores"], [genres[item] for item in plain["items"]], WEIGHT
        )
        for column in ("items", "scores", "heads"):
            assert made[column] == [plain[column][i] for i in order]
    metrics = {
        name: json.loads((folder / "eval" / f"test-{name}" / "metrics.json").read_text())
        for name in ("plain", "one")
    }
    assert metrics["one"]["diversify"] == WEIGHT
    assert metrics["one"]["entropy@10"] > metrics["plain"]["entropy@10"]


def test_serving_shows_the_beginning_of_the_whole_list_made_diverse(run, diverse, genres):
    with load_run(run) as loaded:
        plain = loaded.recommend([5, 50, 7], k=150)
    with load_run(diverse) as loaded:
        made = loaded.recommend([5, 50, 7], k=12)
    order = diversify_reference(
        [item.score for item in plain], [genres[item.item_id] for item in plain], WEIGHT
    )
    assert made == [plain[i] for i in order[:12]]


def test_shares_are_not_kept_in_such_lists_and_so_refused(diverse):
    with (
        load_run(diverse) as loaded,
        pytest.raises(UserError, match=r"at-least: .*evaluation\.diversify"),
    ):
        loaded.recommend([5], at_least={"Comedy": 0.3})
