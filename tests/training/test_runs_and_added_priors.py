"""A prior that is added to the data leaves earlier runs usable; one that a run uses must stay as it was."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.priors.add_prior import add_prior
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.prepared.manifest import read_manifest
from torchrec_priors.training.run.folder import RunFolder
from torchrec_priors.training.run.record import record_run
from torchrec_priors.training.run.same_run import check_same_run


@pytest.fixture
def data(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    return tmp_path / "data"


def _add(data, name, groups):
    rows = np.arange(150)
    table = pa.table(
        {"item": pa.array(rows, pa.int32()), "group": pa.array(rows % groups, pa.int32())}
    )
    sizes = np.bincount(rows % groups).tolist()
    grouping = Grouping(
        "item", [f"class {group}" for group in range(groups)], sizes, table, {"kind": "mapping"}
    )
    add_prior(data, name, grouping, read_manifest(data), overwrite=True)


def _run(data, path, tree, *, trust=False):
    config, run = parse({"priors": {"tree": tree}}), RunFolder(path, trust)
    record_run(run, config, PreparedData(data))
    run.open()
    return config, run


def test_an_earlier_run_does_not_mind_a_prior_that_it_does_not_use(data, tmp_path):
    config, run = _run(data, tmp_path / "run", ["genre"])
    for groups in (2, 3):
        _add(data, "class", groups)
        run.open()
        run.open(data)
        check_same_run(run, config, PreparedData(data))
    other, later = _run(data, tmp_path / "later", ["genre"])
    _add(data, "class", 4)
    later.open()
    check_same_run(later, other, PreparedData(data))


@pytest.mark.parametrize("level", ["class", "item:class"])
def test_a_prior_that_a_run_uses_must_stay_as_it_was(level, data, tmp_path):
    _add(data, "class", 2)
    config, run = _run(data, tmp_path / "run", [level])
    _add(data, "unused", 2)
    run.open()
    _add(data, "class", 3)
    for use in (run.open, lambda: check_same_run(run, config, PreparedData(data))):
        with pytest.raises(
            UserError, match=r"prior 'class' of '.*data' has changed since '.*run' was trained"
        ):
            use()
    _add(data, "class", 2)
    run.open()


def test_a_file_of_ones_own_may_use_any_prior(data, tmp_path):
    _add(data, "class", 2)
    (tmp_path / "mine.py").write_text("def load(argument, data, horizon):\n    pass\n")
    _, run = _run(data, tmp_path / "run", [f"{tmp_path}/mine.py"], trust=True)
    _add(data, "class", 3)
    with pytest.raises(UserError, match=r"prior 'class' .* has changed"):
        run.open()


def test_a_prior_that_is_gone_and_data_of_other_content_are_named(data, small_raw, tmp_path):
    _add(data, "class", 2)
    _, run = _run(data, tmp_path / "run", ["class"])
    prepare(Settings("movielens", small_raw, 8), data, overwrite=True)
    with pytest.raises(
        UserError, match=r"was trained with prior 'class', which '.*data' lacks: add it again"
    ):
        run.open()
    prepare(Settings("movielens", small_raw, 8, seed=1), data, overwrite=True)
    with pytest.raises(UserError, match="is not the data that"):
        run.open()
