"""A run is named by its path in messages and logs."""

from torchrec_priors.training.run.folder import RunFolder


def test_a_run_is_named_by_its_path(tmp_path):
    assert str(RunFolder(tmp_path / "run")) == str(tmp_path / "run")
    assert f"{RunFolder(tmp_path / 'run', trust=True)} is loaded" == f"{tmp_path}/run is loaded"
