"""What a run's folder remembers, and that a mistake does not spoil it."""

import re
import shutil
from pathlib import Path

import pytest
from edited_manifest import edit
from run_files import losses

from torchrec_priors.config import load_config, parse
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join
from torchrec_priors.training.loop import train
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.same_run import check_same_run

SETTINGS = """
[model]
dim = 8
context = 10
horizon = 4
[encoder]
layers = 1
[training]
steps = 1
batch = 8
"""
PRIOR = """
import numpy as np
from torchrec_priors.priors.item import ItemPrior

def load(argument, data, horizon):
    rows = np.arange(data.items)
    return ItemPrior("mine", ["even", "odd"], rows, rows % 2, data.items)
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, small_data):
    """The current folder, with a configuration and a prior of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SETTINGS)
    (tmp_path / "mine.py").write_text(PRIOR)
    return PreparedData(small_data)


def _train(data, *overrides, run="run"):
    config, folder = load_config("small.toml", list(overrides)), RunFolder(_path(run))
    check_same_run(folder, config, data)
    with join() as ranks:
        train(config, data, folder, ranks)
    return folder


def _path(name: str) -> Path:
    return Path(name).absolute()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ('priors.tree=["temporal:3"]', "does not divide"),
        ('priors.tree=["mine:3"]', "for your file write 'mine.py:3'"),
        ('priors.tree=["genre:3"]', "'genre' takes no argument"),
        ('priors.tree=["rating:3"]', "'rating' takes no argument"),
        ('priors.tree=["event:genre"]', "data set has no event prior 'genre': valid: rating"),
        ('priors.tree=["user:agee"]', "data set has no user prior 'agee': did you mean 'age'?"),
        ('priors.tree=["graph:genre"]', "data set has no graph prior 'genre'"),
        ('priors.tree=["random:rating"]', "data set has no item or graph or user prior 'rating'"),
        (
            'priors.tree=["random:genre:x"]',
            "'random:genre:x' has no number as its seed: write 'random:genre:7'",
        ),
        (
            'priors.tree=["random"]',
            "'random:' needs a number of groups or a prior: write 'random:8'",
        ),
        ('priors.tree=["all:0"]', "'all:0' needs a number of groups or a prior: write 'all:8'"),
        ("priors.composition=adative", "'hierarchical', 'multiplicative' or 'additive'"),
        ("priors.min_positives=-1", "priors.min_positives = -1 must not be negative"),
        ('priors.tree=["genre", "genre"]', "are both named 'genre': give each once"),
        ('encoder.item_features=["title", "title"]', "'title' is given twice"),
        ("encoder.backbone=gru", "there is no 'gru'"),
        ("model.dim=36", None),
    ],
)
def test_a_mistake_is_named_and_leaves_the_folder_free_for_the_right_configuration(
    mistake, says, shop
):
    if says:
        with pytest.raises(UserError, match=re.escape(says)):
            _train(shop, mistake)
        _train(shop)
    else:  # no mistake: then the folder is taken
        _train(shop, mistake)
        with pytest.raises(UserError, match="holds a run of another configuration"):
            _train(shop)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            "encoder.time_bias",
            "encoder.time_bias: data set 'movielens' has no times, only the order of the"
            " interactions: set it to false",
        ),
        (
            "training.shuffle_ties",
            "training.shuffle_ties: data set 'movielens' has no times, only the order of the"
            " interactions: set it to false",
        ),
        (
            "encoder.events",
            "encoder.events: data set 'movielens' has no event types: set it to false",
        ),
    ],
)
def test_what_the_data_set_does_not_know_is_refused(asked, says, shop, tmp_path):
    shutil.copytree(shop.folder, tmp_path / "data")
    edit(tmp_path / "data", has_times=False, events=[])
    with pytest.raises(UserError, match=re.escape(says)):
        _train(PreparedData(tmp_path / "data"), f"{asked}=true")
    _train(PreparedData(tmp_path / "data"))


@pytest.mark.parametrize("workers", [0, 1])
def test_another_order_of_ties_is_trained_on_where_it_is_asked_for(workers, shop):
    how = ["training.steps=6", "training.log_every=1"]
    stored = losses(_train(shop, *how, run="stored").path)
    ties = "training.shuffle_ties=true"
    shuffled = losses(_train(shop, *how, ties, f"training.workers={workers}", run="shuffled").path)
    again = losses(_train(shop, *how, ties, run="again").path)
    assert len(stored) == 6
    assert shuffled != stored
    assert shuffled == again


def test_a_prior_of_ones_own_is_found_from_any_folder_and_must_stay_as_it_was(
    shop, tmp_path, monkeypatch
):
    folder = _train(shop, 'priors.tree=["mine.py:2"]')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config, _ = folder.open()
    assert config.priors.tree == [f"{tmp_path}/mine.py:2"]
    (tmp_path / "mine.py").write_text(PRIOR.replace('"even", "odd"', '"odd", "even"'))
    with pytest.raises(
        UserError, match=r"mine\.py' has changed since .* was trained: put it back or train again"
    ):
        folder.open()
    (tmp_path / "mine.py").unlink()
    with pytest.raises(UserError, match=r"was trained with .*mine\.py', which is missing"):
        folder.open()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (PRIOR.replace("rows % 2", "rows % 3"), "prior 'mine': group number 2 is not in [0, 2)"),
        (
            PRIOR.replace("rows % 2", "rows % 2 - 1"),
            "prior 'mine': group number -1 is not in [0, 2)",
        ),
        (PRIOR.replace("rows, rows % 2", "rows[1:], rows % 2"), "row ids for"),
        (PRIOR.replace("    return ", "    "), "must return a prior, not NoneType"),
        (
            PRIOR.replace("    rows =", "    data.catalogue(['titel'])\n    rows ="),
            "no column 'titel': did you mean 'title'",
        ),
    ],
)
def test_a_wrong_prior_of_ones_own_is_explained(code, says, shop, tmp_path):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=re.escape(says)):
        _train(shop, "priors.tree=['mine.py']")


def test_a_run_that_is_a_file_is_named(shop, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match=r"run' is a file: name a folder"):
        _train(shop)


@pytest.mark.parametrize(
    ("override", "hint"),
    [("priors.tree=genre", "quoted for the shell"), ("encoder.events=yes", "write true or false")],
)
def test_a_value_of_the_wrong_type_comes_with_a_hint(override, hint, shop):
    with pytest.raises(UserError, match=hint):
        load_config("small.toml", [override])


def test_layers_and_heads_are_told_apart():
    with pytest.raises(UserError, match=r"encoder\.layers = 0 must be in \[1, 256\]"):
        parse({"encoder": {"layers": 0}})
    with pytest.raises(UserError, match=r"encoder\.heads = 3 must divide model\.dim = 64"):
        parse({"encoder": {"heads": 3}})


def test_what_changes_no_number_may_be_another_when_a_run_goes_on(shop):
    _train(shop)
    _train(
        shop, "training.timeout_seconds=60", "training.max_loss=0", "training.checkpoint_seconds=1"
    )
    with pytest.raises(UserError, match=r"training.clip_norm = 1.0 there, 2.0 here"):
        _train(shop, "training.clip_norm=2.0")
