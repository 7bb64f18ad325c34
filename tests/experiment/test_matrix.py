"""The cells that an experiment's file describes, and what it cannot mean, refused in a line naming the thing."""

import re
import tomllib
from pathlib import Path

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.experiments.file import read_experiment
from torchrec_priors.experiments.matrix import cells_of, flat
from torchrec_priors.experiments.plan import plan

REPOSITORY = Path(__file__).resolve().parents[2]
HEAD = 'config = "small.toml"\nseeds = [0, 1]\n'
TWO_AXES = """
[axes.model."LT/ST_1"]
priors.tree = []
[axes.model."LT/ST_2"]
"priors.tree" = ["temporal:2"]
[axes.loss.near]
loss.gamma = 0.5
[axes.loss.far]
loss.gamma = 0.9
"""


@pytest.fixture
def read(tmp_path):
    """read(text) -> the experiment of a file with `HEAD` before it."""

    def reader(text: str, head: str = HEAD):
        file = tmp_path / "mine.toml"
        file.write_text(head + text, encoding="utf8")
        return read_experiment(file)

    return reader


def _cells(experiment):
    return {cell.name: cell.changes for cell in cells_of(experiment)}


def _planned(experiment, base=None):
    return plan(cells_of(experiment), experiment.seeds, base or {}, flat(experiment.budget))


def test_listed_cells_come_first_then_the_product_whose_last_axis_runs_fastest(read):
    found = _cells(read('[cells."next item"]\nmodel.horizon = 1\n[cells.plain]\n' + TWO_AXES))
    assert found == {
        "next item": {"model.horizon": 1},
        "plain": {},
        "LT/ST_1 + near": {"priors.tree": [], "loss.gamma": 0.5},
        "LT/ST_1 + far": {"priors.tree": [], "loss.gamma": 0.9},
        "LT/ST_2 + near": {"priors.tree": ["temporal:2"], "loss.gamma": 0.5},
        "LT/ST_2 + far": {"priors.tree": ["temporal:2"], "loss.gamma": 0.9},
    }


def test_exclusions_leave_out_what_has_all_their_values(read):
    found = _cells(read('exclude = [{ model = "LT/ST_1", loss = ["far"] }]\n' + TWO_AXES))
    assert list(found) == ["LT/ST_1 + near", "LT/ST_2 + near", "LT/ST_2 + far"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "excldue = []\n[cells.a]",
            ["unknown experiment key 'excldue'", "did you mean 'exclude'?"],
        ),
        ('split = "tset"\n[cells.a]', ["'split'", "tset"]),
        ("metrics = 3\n[cells.a]", ["'metrics' = 3"]),
        ("at_once = 0\n[cells.a]", ["at_once = 0"]),
        ('name = "a/b"\n[cells.a]', ["name = 'a/b'"]),
        ("", ["no cells"]),
        ("[axes.model]", ["axes.model has no values"]),
        ("[cells", ["not valid TOML"]),
    ],
)
def test_a_file_that_cannot_be_is_refused(read, text, words):
    with pytest.raises(UserError) as refused:
        read(text)
    for word in [*words, "mine.toml"]:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("seeds = [0]\n", ["experiment key 'config' is missing"]),
        ('config = "small.toml"\n', ["experiment key 'seeds' is missing"]),
        ('config = "small.toml"\nseeds = []\n', ["seeds = []"]),
        ('config = "small.toml"\nseeds = [1, 1]\n', ["seeds = [1, 1]", "twice"]),
    ],
)
def test_what_must_be_there(read, head, words):
    with pytest.raises(UserError) as refused:
        read("[cells.a]", head)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('reference = "LT/ST_3"\n' + TWO_AXES, ["reference", "'LT/ST_3'"]),
        ('baseline = "LT/ST_1"\n' + TWO_AXES, ["'baseline' is now called 'reference'"]),
        ('exclude = [{ modle = "x" }]\n' + TWO_AXES, ["no axis 'modle'", "did you mean 'model'?"]),
        ('exclude = [{ loss = "nera" }]\n' + TWO_AXES, ["no value 'nera'", "did you mean 'near'?"]),
        ("exclude = [{}]\n" + TWO_AXES, ["empty"]),
        ('exclude = [{ loss = ["near", "far"] }]\n' + TWO_AXES, ["no cells are left"]),
        ("exclude = [{ loss = [] }]\n" + TWO_AXES, ["names no cell"]),
        (
            "[budget]\nloss.gamma = 1.0\n" + TWO_AXES,
            ["cell 'LT/ST_1 + near'", "'loss.gamma'", "[budget]"],
        ),
        (
            "[budget]\nencoder.options.x = 1\n[cells.a]\nencoder.options = {}",
            ["cell 'a'", "'encoder.options'"],
        ),
        ("[budget]\nseed = 1\n[cells.a]", ["seed"]),
        ("[cells.a]\nseed = 3", ["cell 'a'", "seeds"]),
        (TWO_AXES + "priors.tree = []", ["cell 'LT/ST_1 + far'", "two axes change 'priors.tree'"]),
        ('[cells."a b"]\n[cells."a/B"]', ["'a b'", "'a/B'", "share the folder"]),
        ('[cells."a, b"]', ["'a, b'", "comma"]),
        ('[cells."--"]', ["'--'", "letters or digits"]),
    ],
)
def test_cells_that_cannot_be_are_refused(read, text, words):
    with pytest.raises(UserError) as refused:
        cells_of(read(text))
    for word in words:
        assert word in str(refused.value)


def test_the_budget_and_the_seeds_hold_for_every_cell(read):
    runs = _planned(
        read("[budget]\ntraining.steps = 7\n[cells.a]\n[cells.b]\nmodel.dim = 8"),
        {"model": {"dim": 32}},
    )
    assert [
        (run.name, run.config.seed, run.config.training.steps, run.config.model.dim) for run in runs
    ] == [
        ("a-seed0", 0, 7, 32),
        ("b-seed0", 0, 7, 8),
        ("a-seed1", 1, 7, 32),
        ("b-seed1", 1, 7, 8),
    ]
    assert runs[1].overrides == ["training.steps=7", "model.dim=8", "seed=0"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cells.a]\nmodel.dimm = 8", ["cell 'a'", "'model.dimm'", "did you mean 'model.dim'?"]),
        ('[cells.a]\nmodel.dim = "wide"', ["cell 'a'", "model.dim", "wide"]),
        ("[cells.a]\ntraining.fit_all = true", ["cell 'a'", "nothing to evaluate"]),
    ],
)
def test_a_cell_that_is_no_configuration_is_named(read, text, words):
    with pytest.raises(UserError) as refused:
        _planned(read(text))
    for word in words:
        assert word in str(refused.value)


def test_cells_that_differ_in_evaluation_alone_share_a_run(read):
    text = """
    seeds = [3]
    [axes.model.one]
    priors.tree = []
    [axes.model.two]
    priors.tree = ["temporal:2"]
    [axes.evaluation.out]
    [axes.evaluation.in]
    evaluation.filter_seen = false
    evaluation.batch = 8
    [cells.again]
    priors.tree = []
    """
    one, two = _planned(read(text, 'config = "small.toml"\n'), {"evaluation": {"batch": 16}})
    assert [(each.cell, each.name) for each in one.evaluations] == [
        ("again", None), ("one + out", None), ("one + in", "one-+-in"),
    ]  # fmt: skip
    assert one.evaluations[2].overrides == ["evaluation.filter_seen=false", "evaluation.batch=8"]
    assert one.evaluations[2].config.evaluation.batch == 8
    assert one.config.evaluation.batch == 16
    assert (one.name, two.name) == ("again-seed3", "two-seed3"), (
        "the axis of evaluations is not part of a run's name"
    )
    assert [each.cell for each in one.only(["one + in"]).evaluations] == ["one + in"]


def test_two_trainings_never_share_a_folder(read):
    text = '[cells."a"]\n[axes.model.a]\nmodel.dim = 8\n[axes.evaluation.y]\nevaluation.batch = 2'
    with pytest.raises(UserError, match="share the folder 'a-seed0'"):
        _planned(read(text))


def test_the_documents_example_is_what_it_says(tmp_path):
    document = (REPOSITORY / "docs" / "experiments.md").read_text()
    (text,) = re.findall(r"## Experiments\n.*?```toml\n(.*?)```", document, re.DOTALL)
    (tmp_path / "shop.toml").write_text(text)
    experiment = read_experiment(tmp_path / "shop.toml")
    runs = _planned(
        experiment, tomllib.loads((REPOSITORY / "torchx_configs/small.toml").read_text())
    )
    assert len(_cells(experiment)) == 5
    assert len(runs) == 3 * 3
