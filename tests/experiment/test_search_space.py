"""What may be tried is read and checked before anything is trained; mistakes are refused in a line naming the thing."""

import tomllib

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.experiments.file import read_experiment
from torchrec_priors.experiments.matrix import cells_of, flat
from torchrec_priors.experiments.search.space import Between, OneOf, own_values, spaces_of

HEAD = 'config = "base.toml"\nseeds = [0]\n[cells.one]\n[cells."two heads"]\nmodel.dim = 8\n'
SEARCH = "[search]\ntrials = 3\n"


@pytest.fixture
def spaces(tmp_path):
    """spaces(text) -> the spaces of an experiment with `text` after `HEAD`."""

    def reader(text, base=""):
        file = tmp_path / "mine.toml"
        file.write_text(HEAD + text, encoding="utf8")
        experiment = read_experiment(file)
        return spaces_of(
            experiment.search, cells_of(experiment), tomllib.loads(base), flat(experiment.budget)
        )

    return reader


def test_a_cells_own_values_come_beside_those_of_all_or_instead(spaces):
    found = spaces(
        SEARCH
        + "[search.space]\nencoder.dropout = [0.1, 0.5]\ntraining = {learning_rate = {low = 1e-4, high = 1e-2,"
        ' log = true}}\n[search.cells."two heads".space]\nencoder.dropout = {low = 0, high = 0.5}\nmodel.dim = [8, 16]'
    )
    rate = Between(1e-4, 1e-2, True)
    assert found == {
        "one": {"encoder.dropout": OneOf((0.1, 0.5)), "training.learning_rate": rate},
        "two heads": {
            "encoder.dropout": Between(0, 0.5, False),
            "training.learning_rate": rate,
            "model.dim": OneOf((8, 16)),
        },
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[search]\ntrials = 0\nspace.model.dim = [8]", ["search.trials = 0"]),
        ("[search]\ntrials = 1\nbatch = 0\nspace.model.dim = [8]", ["search.batch = 0"]),
        ("[search]\nspace.model.dim = [8]", ["'search.trials' is missing"]),
        (
            "[search]\ntrails = 1\nspace.model.dim = [8]",
            ["'search.trails'", "did you mean 'search.trials'?"],
        ),
        (SEARCH, ["no values to try"]),
        (
            SEARCH + 'split = "test"\nspace.model.dim = [8]',
            ["'search.split' = 'test'", "validation"],
        ),
        (
            SEARCH + 'metric = "test/ndcg@10"\nspace.model.dim = [8]',
            ["search.metric", "'test/ndcg@10'"],
        ),
        (SEARCH + 'metric = "ndgc@10"\nspace.model.dim = [8]', ["did you mean 'ndcg@10'?"]),
        (SEARCH + "seeds = []\nspace.model.dim = [8]", ["search.seeds = []"]),
        (
            SEARCH + "[search.cells.on.space]\nmodel.dim = [8]",
            ["no cell 'on'", "did you mean 'one'?"],
        ),
        (SEARCH + 'space.model.dim = [8]\ncells.one.like = "two"', ["no cell 'two'"]),
        (SEARCH + 'space.model.dim = [8]\ncells.one.like = "one"', ["that cell has no trials"]),
        (
            SEARCH
            + 'space.model.dim = [8]\ncells.one = {like = "two heads", space.model.dim = [8]}',
            ["cannot have a space"],
        ),
        (SEARCH + "space.model.dim = []", ["'model.dim'", "empty list"]),
        (SEARCH + "space.model.dim = [8, 8]", ["'model.dim'", "twice"]),
        (SEARCH + "space.model.dim = 8", ["'model.dim' = 8", "list of values"]),
        (SEARCH + "space.model.dim = {low = 16, high = 8}", ["low = 16", "below high = 8"]),
        (SEARCH + "space.model.dim = {low = 8}", ["'high' must be a number, not None"]),
        (
            SEARCH + "space.model.dim = {low = 8, hihg = 16}",
            ["unknown 'hihg'", "did you mean 'high'?"],
        ),
        (
            SEARCH + "space.encoder.dropout = {low = 0.0, high = 0.5, log = true}",
            ["low = 0.0", "positive"],
        ),
        (
            SEARCH + "space.encoder.dropout = {low = 0.1, high = 0.5, log = 1}",
            ["'log'", "true or false"],
        ),
        (
            SEARCH + "space.encoder.dropotu = [0.1]",
            ["cell 'one'", "did you mean 'encoder.dropout'?"],
        ),
        (SEARCH + "space.seed = [1]", ["'seed'", "search.seeds"]),
        (
            "[budget]\ntraining.steps = 3\n" + SEARCH + "space.training.steps = [3]",
            ["'training.steps'", "[budget]"],
        ),
        (SEARCH + "space.model = [{dim = 8}]", ["'model.dim' is in 'model'", "'two heads'"]),
        (
            SEARCH + "space.encoder.dropout = [0.1, 1.5]",
            ["cell 'one' with encoder.dropout = 1.5", "[0, 1)"],
        ),
        (
            SEARCH
            + "space.encoder.dropout = [0.1, 0.2]\nspace.encoder.heads = [2, 3]\nspace.model.dim = [12, 16]",
            ["encoder.heads = 3, model.dim = 16", "must divide"],
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(spaces, text, words):
    with pytest.raises(UserError) as refused:
        spaces(text)
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_cell_has_of_its_space(spaces, tmp_path):
    space = spaces(
        SEARCH + "space.encoder.dropout = [0.1, 0.3]\nspace.model.dim = {low = 4, high = 12}"
    )["one"]
    cells = cells_of(read_experiment(tmp_path / "mine.toml"))
    base = {"encoder": {"dropout": 0.3}, "model": {"dim": 32}}
    assert own_values(cells[0], space, base, {}) is None, "32 is not among the values"
    assert own_values(cells[1], space, base, {}) == {"encoder.dropout": 0.3, "model.dim": 8}
