"""Pages that tests share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up import write_runs

from torchrec_priors.report.page import write_page
from torchrec_priors.report.runs import find
from torchrec_priors.report.sections import sections


@pytest.fixture(scope="session")
def made_up_runs(small_data, tmp_path_factory):
    """Seven models with two seeds each; tests must not change them."""
    return write_runs(tmp_path_factory.mktemp("report") / "runs", small_data)


@pytest.fixture(scope="session")
def section(made_up_runs):
    """Their section, the test split."""
    [section] = sections(find([made_up_runs]).results, None)
    return section


@pytest.fixture(scope="session")
def page(made_up_runs, tmp_path_factory):
    """The file of their page."""
    found = find([made_up_runs])
    out = tmp_path_factory.mktemp("report") / "page"
    return write_page(
        sections(found.results, None), found.left_out, out, "torchrec-priors report --runs <a> & b"
    )
